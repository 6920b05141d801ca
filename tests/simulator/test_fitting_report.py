"""Shipped rows are foretold within stated errors, bad rows are named, and a page gets its tables."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from marlin.api.errors import InputError
from marlin.simulator.fitting.__main__ import main
from marlin.simulator.fitting.energy import judged, predict_energy
from marlin.simulator.fitting.held_out import Left, leave_one_out
from marlin.simulator.fitting.observations import (
    Quantity,
    Setup,
    bench_times,
    energies,
    power_fractions,
    shipped_times,
)
from marlin.simulator.fitting.power import fit_power
from marlin.simulator.fitting.report import fill, shipped_tables
from marlin.simulator.fitting.roofline import fit_roofline

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "validation-measurements.md"
SIBLING = ROOT.parent / "shared" / "data"
DATA = Path(os.environ.get("MARLIN_DATA", SIBLING))

RUNS = "hardware,num_gpus,framework,model,input_output_length,batch_size,latency_s,throughput_tok_s\n"
TTFT = "hardware,num_gpus,framework,model,input_length,output_length,batch_size,ttft_s,e2e_latency_s\n"


def bench_folder(tmp_path: Path, runs: str) -> Path:
    (tmp_path / "perf").mkdir()
    (tmp_path / "perf" / "llm_inference_bench_llama.csv").write_text(RUNS + runs)
    first_token = "H100,1,vLLM,Llama-2-7b-hf,1024,1,16,0.42165,13.16871\n"
    (tmp_path / "perf" / "llm_inference_bench_ttft.csv").write_text(TTFT + first_token)
    return tmp_path


@pytest.mark.parametrize("left", list(Left))
def test_measured_70b_rows_are_foretold_within_the_errors_the_page_states(left: Left) -> None:
    for gpu in ("A100-80GB", "H100-80GB"):
        rows = [o for o in shipped_times() if (o.setup.accelerator, o.source) == (gpu, "Splitwise")]
        errors = [abs(h.roofline_error) for h in leave_one_out(rows, left)]
        assert np.median(errors) < 0.10, gpu
        assert max(errors) < 0.20, gpu


def test_beyond_the_measured_gpu_counts_physics_beats_the_straight_line() -> None:
    for gpu in ("A100-80GB", "H100-80GB"):
        rows = [o for o in shipped_times() if (o.setup.accelerator, o.source) == (gpu, "Splitwise")]
        beyond = [
            h
            for h in leave_one_out(rows, Left.GPU_COUNT)
            if h.is_edge and h.observation.quantity is Quantity.STEP and h.interpolation_error is not None
        ]
        roofline = np.median([abs(h.roofline_error) for h in beyond])
        line = np.median([abs(h.interpolation_error or 0.0) for h in beyond])
        assert roofline < 0.5 * line, gpu


def test_runs_whose_cache_does_not_fit_are_not_fitted(tmp_path: Path) -> None:
    """Two 7B rows on one A100-40GB: 2,048 tokens fit beside the weights, 65,536 do not."""
    data = bench_folder(
        tmp_path,
        "A100,1,vLLM,Llama-2-7b-hf,1024,1,13.9,146.5\nA100,1,vLLM,Llama-2-7b-hf,1024,32,46.0,1422.8\n",
    )
    assert [o.setup.batch for o in bench_times(data, "vLLM") if o.quantity is Quantity.RUN] == [1.0]
    assert not Setup("Llama-2-70b", "H100-80GB", 1, 1.0, 1.0, 1.0).is_steady


def test_a_bad_row_is_refused_with_file_line_and_reason(tmp_path: Path) -> None:
    data = bench_folder(tmp_path, "H100,1,vLLM,Llama-2-7b-hf,128,1,1.0,9\nH100,one,vLLM,Llama-2-7b-hf,128,1,1.0,9\n")
    with pytest.raises(InputError, match=r"llm_inference_bench_llama.csv:3: ValueError"):
        bench_times(data, "vLLM")


def test_a_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no row that this comparison uses"):
        bench_times(bench_folder(tmp_path, ""), "vLLM")


def test_missing_data_are_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path) in err
    assert err.count("\n") == 1


def test_without_data_the_shipped_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "## held-out-shipped" in out
    assert "Splitwise, 70B | H100-80GB | GPU count | decode step" in out
    assert "## energy" not in out


def test_a_page_gets_its_tables_and_keeps_its_words() -> None:
    page = "before\n<!-- energy -->\nold\n<!-- /energy -->\nafter\n"
    filled = fill(page, {"energy": "| new |"})
    assert filled == "before\n<!-- energy -->\n\n| new |\n\n<!-- /energy -->\nafter\n"
    assert fill(filled, {"energy": "| new |"}) == filled


@pytest.mark.parametrize(
    ("page", "message"),
    [("<!-- nothing -->\n<!-- /nothing -->", "there are energy"), ("<!-- energy -->\n", "never closes it")],
)
def test_a_mark_that_cannot_be_filled_is_refused(page: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fill(page, {"energy": "| new |"})


def test_the_published_shipped_tables_are_those_the_code_computes() -> None:
    """Digits may differ with the SciPy version; which rows and constants there are may not."""
    page = PAGE.read_text(encoding="utf-8")
    for name, table in shipped_tables().items():
        published = page.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
        first_cells = [line.split(" | ")[:6] for line in table.splitlines()]
        labels = 2 if name.startswith("constants") else 6
        assert [r[:labels] for r in first_cells] == [
            line.split(" | ")[:labels] for line in published.strip().splitlines()
        ], name


if DATA.is_dir():

    def test_energy_of_unseen_models_on_an_unseen_engine_is_within_thirty_percent() -> None:
        """Fitted on Llama-2 and without a row of ML.ENERGY; judged on v3 at batch 8 to 128."""
        times = [
            o
            for o in bench_times(DATA, "vLLM")
            if o.setup.model.startswith("Llama-2") and o.setup.accelerator == "H100-80GB"
        ]
        roofline = fit_roofline(times)
        power = fit_power([o for o in power_fractions(DATA) if o.setup.model.startswith("Llama-2")])
        measured = judged(energies(DATA), "v3")
        assert {(o.model, o.gpus, round(o.batch)) for o in measured} == {
            (model, gpus, batch)
            for model, gpus in (("Llama-3-8B", 1), ("Llama-3-70B", 4))
            for batch in (8, 16, 32, 64, 96, 128)
        }
        assert max(abs(predict_energy(roofline, power, o).error) for o in measured) <= 0.30

    def test_the_page_s_marks_can_all_be_filled_from_the_full_data(tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
        assert main(["--data", str(DATA), "--page", str(page)]) == 0
