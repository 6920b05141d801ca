{{/* First part of all names: the release's name, with the chart's unless that is already in it. */}}
{{- define "marlin.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "marlin.router.name" -}}
{{ include "marlin.fullname" . }}-router
{{- end -}}

{{- define "marlin.operator.name" -}}
{{ include "marlin.fullname" . }}-operator
{{- end -}}

{{/* Labels of every object. */}}
{{- define "marlin.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: marlin
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What selects pods of a component. A Deployment's selector never changes: nothing of a version belongs here. */}}
{{- define "marlin.router.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: router
{{- end -}}

{{- define "marlin.operator.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "marlin.router.labels" -}}
{{ include "marlin.router.selector" . }}
{{ include "marlin.labels" . }}
{{- end -}}

{{- define "marlin.operator.labels" -}}
{{ include "marlin.operator.selector" . }}
{{ include "marlin.labels" . }}
{{- end -}}

{{- define "marlin.router.serviceAccountName" -}}
{{- if .Values.router.serviceAccount.create -}}
{{- default (include "marlin.router.name" .) .Values.router.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.router.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "marlin.operator.serviceAccountName" -}}
{{- if .Values.operator.serviceAccount.create -}}
{{- default (include "marlin.operator.name" .) .Values.operator.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.operator.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Where pods of a component may run: (dict "of" .Values.router "selector" (include "marlin.router.selector" .)). */}}
{{- define "marlin.scheduling" -}}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $selector := .selector }}
{{- with .of.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- /* Of one revision only: pods of the one before are about to go. */}}
  {{- $selected := dict "labelSelector" (dict "matchLabels" ($selector | fromYaml)) "matchLabelKeys" (list "pod-template-hash") }}
  - {{- toYaml (ternary . (merge (deepCopy .) $selected) (hasKey . "labelSelector")) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The image of a component: (dict "image" .Values.router.image "root" $). A digest says more than a tag. */}}
{{- define "marlin.image" -}}
{{- with .image.registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* How the router watches its table: "own", on its cluster's API server; "other", on another's; "" not at all. */}}
{{- define "marlin.router.watch" -}}
{{- with .Values.router.table -}}
{{- if and .watch.enabled (not .documents) -}}
{{- if .watch.server -}}
{{- if not .watch.existingSecret -}}
{{- fail "router.table.watch.existingSecret: name the Secret with token and ca.crt for router.table.watch.server" -}}
{{- end -}}
other
{{- else -}}
own
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "marlin.router.configMap" -}}
{{- if .Values.router.table.documents -}}
{{ include "marlin.router.name" . }}-table
{{- else -}}
{{ required "router.table: give configMap, the name of a ConfigMap with the routing table, or documents" .Values.router.table.configMap }}
{{- end -}}
{{- end -}}

{{/*
Whether an object of somebody else's kind is rendered: (dict "of" values "api" "group/version/Kind" "name" "key" "root" $).
`helm template` knows no cluster: give it --api-versions, or say alwaysRender.
*/}}
{{- define "marlin.isRendered" -}}
{{- if .of.enabled -}}
{{- if or (eq .of.renderMode "alwaysRender") (.root.Capabilities.APIVersions.Has .api) -}}
true
{{- else if eq .of.renderMode "failIfMissing" -}}
{{- fail (printf "%s.renderMode is failIfMissing and the cluster has no %s: install the Prometheus operator first" .name .api) -}}
{{- end -}}
{{- end -}}
{{- end -}}
