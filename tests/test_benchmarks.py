# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks run, at tiny size, and print what they promise."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from sailvit_hf import SAILViTConfig

from .modeling.twins import as_aimv2, randomised

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script of benchmarks/ as it is when it is run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


def agree(ratio: str, one: str, *others: str) -> bool:
    """Whether a printed ratio can be that of a printed number to the sum of others, rounded after it was taken."""

    def bounds(*printed: str) -> tuple[float, float]:
        half = sum(0.5 * 10.0 ** -len(number.partition(".")[2]) for number in printed)
        whole = sum(map(float, printed))
        return whole - half, whole + half

    (low, high), (first, last), (least, most) = bounds(ratio), bounds(one), bounds(*others)
    return (least <= 0 or low <= last / least) and first / most <= high


def test_printed_numbers_agree():
    assert agree("1.73", "0.6", "0.4") and agree("2.00", "4.0", "2.0") and agree("9.00", "0.004", "0.000")
    assert agree("1.513", "0.007", "0.002", "0.003") and not agree("1.513", "0.012", "0.002", "0.003")
    assert not agree("1.40", "4.0", "2.0") and not agree("0.50", "4.0", "2.0") and not agree("2.11", "4.0", "2.0")


@pytest.mark.slow
def test_rehearsal(script, capsys, tmp_path):
    script("rehearsal").main(["--samples", "200000", "--ranks", "8", "--packs", "1", "--steps", "20", "--rows", "0",
                              "--folder", str(tmp_path)])  # fmt: skip
    text = capsys.readouterr().out
    assert re.search(r"even, 1 a rank +1\.0\d\d", text) and re.search(r"first start: [\d,]+ steps foreseen", text)
    assert len(re.findall(r"resume at +\d+%: \d", text)) == 3


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's mark of a process is Linux's")
def test_planner(script, capsys, monkeypatch):
    """Peak resident memory and FLOPs of real training, within the limit of what was planned."""
    for name, value in {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "src")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script("planner").main(["--jobs", "2", "--cases", "tiny, coarse", "tiny, world"]) == 0
    text = capsys.readouterr().out
    found = re.findall(r"^tiny, \w+ +\d+ +\d+ +(\S+) +\S+ +\S+ +(\S+)$", text, re.MULTILINE)
    assert len(found) == 2 and all(abs(float(ratio) - 1) <= 0.1 for ratios in found for ratio in ratios)
    assert "(limit 10%)" in text


def test_throughput(script, capsys):
    script("vision_tower").main(["--batch-size", "2", "--repetitions", "1", "--peak-tflops", "1", "--kernels", "sdpa",
                                 "eager", "--models", "sailvit", "aimv2", "--agreement"])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines[2:]) and "transformers" in lines[1]
    rows = [line.split() for line in lines[4:12]]
    for model in ("sailvit", "aimv2"):
        for kernel in ("sdpa", "eager"):
            for mode in ("forward", "training"):
                (row,) = [row for row in rows if row[:5] == ["tiny", model, kernel, "no", mode]]
                assert float(row[6]) > 0 and row[8].endswith("%")
    (values,) = [line for line in lines[12:] if "aimv2" in line]
    found = re.search(r"float32 +(\S+) +(\S+) +(\S+) of", values)
    assert found is not None and float(found[2]) > 0.9999 and float(found[3]) < 1e-4


def test_what_does_not_run_is_a_row_that_says_why(script, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    script("vision_tower").main(["--models", "timm", "--modes", "forward"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("tiny   timm     sdpa") and "ModuleNotFoundError" in last and len(last) <= 100


def test_half_precision_training_has_fp32_weights(script):
    """What the trainer does, too; pure bf16 would be faster and another thing."""
    tower = script("vision_tower")
    seen = []
    build = tower.build
    tower.build = lambda *arguments: seen.append(arguments[3]) or build(*arguments)
    tower.main(["--dtype", "bfloat16", "--batch-size", "1", "--repetitions", "1"])
    assert seen == [torch.bfloat16, torch.float32]


def test_flops_are_the_networks(script):
    count = script("measuring").forward_flops
    # 0.736 and 1.548 TFLOP: counted by hand from the architecture.
    assert count(SAILViTConfig.preset("large")) == pytest.approx(0.736e12, rel=0.01)
    assert count(SAILViTConfig.preset("huge")) == pytest.approx(1.548e12, rel=0.01)


def test_parity(script, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(script("measuring"), "RESULTS", tmp_path / "results")
    script("parity").main(["--preset", "tiny", "--rounds", "1", "--threads", "1", "--write"])
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[3].rsplit(maxsplit=1)[1]) < 1e-4
    text = "\n".join(lines)
    for work in ("forward", r"forward\+backward"):
        assert re.search(rf"^{work} +ratio of the medians, ours to theirs: \d+\.\d+$", text, flags=re.MULTILINE)
        found = re.search(rf"^{work} +peak of memory: SAILViTModel (\d+) MiB, Aimv2VisionModel (\d+)", text, flags=8)
        assert found is not None and float(found[1]) / float(found[2]) == pytest.approx(1.0, abs=0.1)
    first, *rest = (tmp_path / "results" / "parity_tiny.txt").read_text().splitlines()
    assert first == "$ python benchmarks/parity.py --preset tiny --rounds 1 --threads 1 --write" and rest == lines


def test_int8(script, capsys, tmp_path):
    folder = tmp_path / "tower"
    randomised(SAILViTConfig.preset("tiny", num_hidden_layers=1)).save_pretrained(folder)
    script("int8").main(["--model", str(folder), "--rounds", "1", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    cosines = {line[:17].strip(): float(re.search(r"cosine (\S+),", line)[1]) for line in lines[3:7]}
    assert cosines["onnxruntime fp32"] == 1.0 and 0.99 < cosines["int8, ours"] < 1.0
    assert re.fullmatch(r"ratio of the medians, int8 to torch fp32: \d+\.\d+", lines[7])


def test_times_by_turns(script, monkeypatch):
    measuring = script("measuring")
    clock = iter(range(100))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    calls: list[str] = []
    times = measuring.by_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "ba" "ab" "ba" "ab" and times == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_the_same_weights_in_transformers_layout(script):
    model = randomised(SAILViTConfig.preset("tiny"))
    twin, by_hand = script("measuring").aimv2_twin(model), as_aimv2(model)
    for name, tensor in by_hand.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor), name
    assert not twin.training and twin.config._attn_implementation == model.config._attn_implementation


def test_loading_time(script, capsys, monkeypatch):
    loading = script("loading_time")
    for way in [way for way in loading.WAYS if way not in (loading.OURS, loading.THEIRS)]:
        monkeypatch.delitem(loading.WAYS, way)
    loading.main(["--preset", "tiny", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    for first in (3, 7):  # by the clock on the wall, and by the processor's
        assert lines[first].split()[1:] == ["seconds,", "medians", "import", "load", "both", "again"]
        ours, theirs, ratios = (line[24:].split() for line in lines[first + 1 : first + 4])
        assert len(ratios) == 4 and all(map(agree, ratios, ours, theirs))


def test_what_a_backbone_has_no_use_for(script):
    needless = script("loading_time").needless
    modules = ["torch", "datasets.arrow", "datasets_of_mine", "sailvit_hf.data", "sailvit_hf.modeling"]
    assert needless(modules) == ["datasets.arrow", "sailvit_hf.data"]


def test_preprocessing(script, capsys, monkeypatch):
    benchmark = script("preprocessing")
    monkeypatch.setattr(benchmark, "SIZES", [(60, 40), (90, 50)])
    monkeypatch.setattr(benchmark, "FILES", [(70, 60)])
    benchmark.main(["--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if re.match(r"\d+x\d+", line)]
    assert len(rows) == 4 and all(len(re.findall(r"\d+\.\d \(\d+\.\d\)", row)) >= 2 for row in rows)
    (smooth,) = [line for line in lines if line.startswith("smooth 60x40")]
    assert re.fullmatch(r"smooth 60x40 +0( +[0-2], 0\.0\d\d)+", smooth)


def test_data_check(script, capsys):
    script("data_check").main("--samples 12 --size 32x24 --workers 1 --repeats 1".split())
    first, *ways = capsys.readouterr().out.splitlines()[3:]
    assert "12 samples, 12 JPEGs of 32x24" in first
    assert [way.split()[0] for way in ways] == ["default", "--decode"] and all("samples/s" in way for way in ways)


def test_preprocessing_memory(script, capsys):
    script("preprocessing_memory").main(["--pictures", "100"])
    pictures, resident, peak, _ = capsys.readouterr().out.splitlines()[-1].split()
    assert pictures == "100" and float(resident) <= float(peak)


@pytest.mark.slow
def test_the_loss_in_chunks(script, capsys):
    script("chunked_loss").main(["--vocabulary", "300", "--width", "8", "--positions", "40", "--rounds", "1",
                                 "--learnt", "0.5", "--device", "cpu", "--ways", "chunked"])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "vocabulary 300, width 8, 40 positions, 50% learnt, head trained, float32"
    for line in lines[2:-1]:
        found = re.search(r"^(\w+) +peak +\d+ MiB .* off: loss (\S+), gradients (\S+)$", line)
        assert found is not None and float(found[2]) < 1e-6 and float(found[3]) < 1e-5
    assert [line.split()[0] for line in lines[2:4]] == ["plain", "chunked"] and "loss holds" in lines[-1]


def test_a_step_of_stage_one(script, capsys):
    sizes = "--width 64 --layers 1 --image-size 28 --text 8 --rounds 1 --batch-size 2 --samples 4 --epochs 2"
    script("frozen_tower").main([*sizes.split(), "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14].strip() for line in lines[2:6]] == ["tower", "language model", "step", "as if trained"]
    tower, language, step = (line[16:].split()[0] for line in lines[2:5])
    assert agree(lines[6].split()[3], step, tower, language)
    assert lines[7].startswith("2 epochs of 4 samples: ")


def test_the_contrast_over_seeds(script, capsys, monkeypatch, tmp_path):
    benchmark, evidence = script("contrastive"), importlib.import_module("sailvit_hf.evaluation.evidence")
    ran = []

    def run_one(self, job):
        kind = job.recipe.stages["fine"].arguments.get("contrastive_loss", "none")
        ran.append((job.arm, job.recipe.seed, kind, job.recipe.stages["world"].arguments.get("contrastive_loss")))
        value = {"none": 0.4, "infonce": 0.5, "sigmoid": 0.3}[kind] + 0.01 * job.recipe.seed
        result = {"probes": {"pooled_knn_seen": value}, "swap_original": {"caption_loss": value}, "swap_second": {},
                  "own": {}}  # fmt: skip
        evidence.write_json(self._path(job), {"seconds": 7.0, "result": result})
        return job, 7.0

    monkeypatch.setattr(benchmark.Jobs, "_run_one", run_one)
    benchmark.main(["--folder", str(tmp_path), "--seeds", "3", "--weights", "0.2"])
    text = capsys.readouterr().out
    assert len(ran) == 3 + 3 * 4 and {world for *_, world in ran} == {None}
    assert {(arm, kind) for arm, _, kind, _ in ran[3:]} == {
        ("unrefined", "none"), ("gradual", "none"), ("gradual", "infonce"), ("gradual", "sigmoid"),
    }  # fmt: skip
    assert re.search(r"pooled_knn_seen +0\.410 +0\.410 +0\.510 +0\.310\n", text)
    assert re.search(r"infonce 0\.2 minus without.*\n +pooled_knn_seen +\+0\.100 .* 3 of 3 +better", text)
    assert re.search(r"sigmoid 0\.2 minus without.*\n +caption_loss +-0\.100 .* 3 of 3 +better", text)


def test_stages(script, capsys):
    script("stages").main(
        ["--stages", "coarse", "--samples", "8", "--steps", "2", "--warmup", "1", "--max-length", "600",
         "--text", "10", "100"]
    )  # fmt: skip
    text = capsys.readouterr().out
    found = re.findall(r"^coarse  (padded|packed) +([0-9.]+) +[0-9]+ +[0-9]+ +([0-9.]+)%", text, re.MULTILINE)
    assert [batch for batch, _, _ in found] == ["padded", "packed"]
    (_, slow, less), (_, quick, more) = found
    assert float(more) > float(less)
    share = float(slow) / float(quick)
    assert abs(float(re.search(r"packed needs ([0-9]+)% of the time", text)[1]) - 100 * share) < 2


def test_packing(script, capsys):
    script("packing").main(
        ["--samples", "4", "--batch-size", "2", "--width", "128", "--layers", "1", "--vocabulary", "50",
         "--rounds", "1", "--max-length", "900", "--planned", "300", "--ranks", "4"]
    )  # fmt: skip
    text = capsys.readouterr().out
    for way in ("plain Trainer, padded", "our trainer, padded", "our trainer, packed"):
        assert re.search(rf"^{way} +[0-9.]+ s .* [0-9]+%$", text, re.MULTILINE)
    full = [float(found) for found in re.findall(r"^8192, .* ([0-9.]+)% ", text, re.MULTILINE)]
    assert len(full) == 4 and min(full[1:]) > full[0] and max(full[1:]) > 99


def test_resume_time(script, capsys, monkeypatch):
    """Each way to a first batch ends at the same samples, and the table is made of the times."""
    benchmark, firsts = script("resume_time"), []

    def by_turns(works, rounds):
        firsts.append({name: work() for name, work in works.items()})
        return {name: [0.001 * (number + 1)] * rounds for number, name in enumerate(works)}

    monkeypatch.setattr(benchmark, "by_turns", by_turns)
    benchmark.main(["--rows", "3000", "--samples", "40000", "--rounds", "3"])
    text = capsys.readouterr().out
    found = re.findall(r"^(.*?\S) +([0-9.]+ +[0-9.]+ +[0-9.]+)$", text, re.MULTILINE)
    assert {name: [float(number) for number in numbers.split()] for name, numbers in found} == {
        "JSONL, 3,000 rows, cursors": [1, 3, 3],
        "JSONL, 3,000 rows, passed over": [2, 4, 2],
        "Parquet, 3,000 rows, cursors": [1, 3, 3],
        "Parquet, 3,000 rows, passed over": [2, 4, 2],
        "Parquet, 3,000 rows, datasets' state": [5, 6, 1.2],
        "40,000 by index, ours": [1, 3, 3],
        "40,000 by index, accelerate's": [2, 4, 2],
    }
    for works in firsts[:2]:
        few, many = ([sample["input_ids"].item() for sample in works[f"{name}, cursors"]] for name in ("few", "many"))
        assert len({*few, *many}) == 16
        for name, batch in (("few", few), ("many", many)):
            assert [sample["input_ids"].item() for sample in works[f"{name}, passed over"]] == batch
    for name, batch in firsts[2].items():
        assert len(set(batch.tolist())) == 8, name
