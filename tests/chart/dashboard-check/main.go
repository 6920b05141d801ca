// dashboard-check reads dashboards as Grafana's own generated types do, and names every field that they do not know,
// that is missing, or that does not hold what they want, and every panel of a type that there is not.
//
//	dashboard-check FILE...
//
// Exit status: 0 all are well, 1 some are not (a line for each finding), 2 a file cannot be read.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	status := 0
	for _, file := range os.Args[1:] {
		raw, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		for _, finding := range findings(raw) {
			status = 1
			fmt.Printf("%s: %s\n", filepath.Base(file), finding)
		}
	}
	os.Exit(status)
}

func findings(raw []byte) []string {
	found := lines(new(dashboard.Dashboard).UnmarshalJSONStrict(raw))
	var read dashboard.Dashboard
	if err := json.Unmarshal(raw, &read); err != nil {
		return append(found, lines(err)...)
	}
	found = append(found, lines(read.Validate())...)
	for i, one := range read.Panels {
		if one.Panel == nil {
			continue // a row
		}
		if _, known := cog.NewRuntime().ConfigForPanelcfgVariant(one.Panel.Type); !known {
			found = append(found, fmt.Sprintf("panels[%d].type: there is no panel %q", i, one.Panel.Type))
		}
	}
	return found
}

// lines of an error; none of one that says nothing, which is how these types say that all is well.
func lines(err error) []string {
	if err == nil || strings.TrimSpace(err.Error()) == "" {
		return nil
	}
	return strings.Split(strings.TrimSpace(err.Error()), "\n")
}
