"""The command line as its user meets it: arguments in, exit code and two streams out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedrec import __version__, cli
from fedrec.cli import console
from fedrec.experiment import Step
from tests.experiment.tiny import EACH, ITEMS, USERS, experiment, write_experiment, write_ratings


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Fedrec = Callable[..., Outcome]


@pytest.fixture
def fedrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fedrec:
    """Runs a command in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fedrec", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, captured.out, captured.err)

    return call


def with_data(folder: Path, **changes: Any) -> Path:
    """The tiny experiment with other keys in its data section."""
    ratings = write_ratings(folder / "ratings.csv")
    return write_experiment(folder, data=experiment(ratings)["data"] | changes)


def with_file(folder: Path, content: bytes) -> Path:
    """The tiny experiment on a file of that content."""
    path = write_experiment(folder)
    (folder / "ratings.csv").write_bytes(content)
    return path


def with_rating(folder: Path, rating: str) -> Path:
    """The tiny experiment with one more rating in its file."""
    write_ratings(folder / "ratings.csv", extra=(("u1", "m0", rating, 99),))
    return write_experiment(folder)


def with_arms(folder: Path, *arms: dict[str, Any]) -> Path:
    return write_experiment(folder, arms=list(arms))


def private(**privacy: Any) -> dict[str, Any]:
    return {"name": "dp", "method": {"kind": "spectral", "factors": 3}, "privacy": privacy}


POPULARITY: dict[str, Any] = {"name": "popularity", "method": {"kind": "popularity"}}
HEADER = b"uid,mid,stars,when\n"

BAD_INPUT: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "unknown config key": (
        lambda f: write_experiment(f, evaluation={"metrc": "ndcg@5"}),
        ["evaluation.metrc", "unknown key 'metrc'", "did you mean 'metric'?"],
    ),
    "unknown key of the data": (
        lambda f: with_data(f, clean={"k_cor": 2}),
        ["data.clean", "'k_cor'", "did you mean 'k_core'?"],
    ),
    "unknown key of the split": (
        lambda f: with_data(f, split={"kind": "ratio", "tets": 0.2}),
        ["data.split", "'tets'", "did you mean 'test'?"],
    ),
    "unknown method kind": (
        lambda f: with_arms(f, {"name": "a", "method": {"kind": "ego-lightgnc"}}),
        ["arms.a.method.kind", "'ego-lightgnc'", "did you mean 'ego-lightgcn'?"],
    ),
    "unknown split kind": (
        lambda f: with_data(f, split={"kind": "leave-1-out"}),
        ["data.split", "leave-1-out", "did you mean 'leave-one-out'?"],
    ),
    "unknown dataset": (
        lambda f: write_experiment(f, data={"name": "ml-10k"}),
        ["data.name", "ml-10k", "did you mean 'ml-100k'?"],
    ),
    "missing file": (lambda f: with_data(f, path="absent.csv"), ["absent.csv", "no such file", "check the path"]),
    "missing column": (
        lambda f: with_data(f, columns={"user": "uid", "item": "movie"}),
        ["ratings.csv", "'movie'", "columns.item"],
    ),
    "column that is not called as usual": (
        lambda f: with_data(f, columns={}),
        ["ratings.csv", "no column 'user'", "columns = {"],
    ),
    "empty file": (lambda f: with_file(f, b""), ["ratings.csv", "empty", "give one"]),
    "file without records": (lambda f: with_file(f, HEADER), ["ratings.csv", "no records", "give one"]),
    "binary garbage": (lambda f: with_file(f, bytes(range(256)) * 40), ["ratings.csv", "binary data", "give another"]),
    "garbage that calls itself Parquet": (
        lambda f: with_data(f, path=str(with_file(f, b"\0garbage").with_name("ratings.csv").rename(f / "r.parquet"))),
        ["r.parquet", "not a Parquet file", "write it again"],
    ),
    "non-numeric rating": (lambda f: with_rating(f, "five"), ["ratings.csv", "line 146", "'five'", "invalid = 'drop'"]),
    "NaN rating": (lambda f: with_rating(f, "nan"), ["ratings.csv", "line 146", "nan", "invalid = 'drop'"]),
    "infinite rating": (lambda f: with_rating(f, "inf"), ["ratings.csv", "line 146", "inf", "invalid = 'drop'"]),
    "a single user": (
        lambda f: with_file(f, HEADER + b"u1,m1,5,1\nu1,m2,5,2\nu1,m3,5,3\n"),
        ["ratings.csv", "leaves 1 of the at least two users", "give more data"],
    ),
    "k larger than the catalogue": (
        lambda f: write_experiment(f, evaluation={"k": [ITEMS + 1], "metric": f"ndcg@{ITEMS + 1}"}),
        ["evaluation.k", f"{ITEMS + 1}", f"{ITEMS} items", "lower it"],
    ),
    "epsilon of zero": (lambda f: with_arms(f, private(epsilon=0.0)), ["arms.dp.privacy.epsilon = 0.0", "above 0"]),
    "negative epsilon": (lambda f: with_arms(f, private(epsilon=-1.0)), ["arms.dp.privacy.epsilon = -1.0", "above 0"]),
    "delta of one over the number of users": (
        lambda f: with_arms(f, private(epsilon=8.0, delta=1 / USERS)),
        ["arms.dp", "delta", f"1/{USERS}", "take delta"],
    ),
    "two arms of one name": (
        lambda f: with_arms(f, POPULARITY, POPULARITY),
        ["arms", "two arms", "'popularity'", "rename one"],
    ),
    "early stopping under a guarantee": (
        lambda f: with_arms(f, private(epsilon=8.0) | {"method": {"kind": "ego-lightgcn"}}),
        ["arms.dp", "patience", "set patience = 0"],
    ),
    "more factors than items": (
        lambda f: with_arms(f, {"name": "a", "method": {"kind": "spectral", "factors": 99}}),
        ["arms.a", "factors = 99", f"{ITEMS} items", "lower it"],
    ),
    "unknown device": (
        lambda f: write_experiment(f, engine={"device": "gpu"}),
        ["engine.device", "'gpu'", "use 'auto' or 'cpu'"],
    ),
    "value with a line break": (
        lambda f: with_arms(f, {"name": "a", "method": {"kind": "no\nsuch"}}),
        ["arms.a.method.kind", "unknown method kind 'no such'", "valid: "],
    ),
    "rate above one": (
        lambda f: with_arms(f, POPULARITY | {"participation": {"rate": 1.5}}),
        ["arms.popularity.participation.rate = 1.5", "lower it"],
    ),
    "seeds that are no array": (
        lambda f: write_experiment(f, seeds=0),
        ["seeds = 0", "write it in brackets, such as [0]"],
    ),
    "tuning without a validation part": (
        lambda f: write_experiment(
            f,
            data=experiment(write_ratings(f / "ratings.csv"))["data"] | {"split": {"kind": "ratio", "valid": 0.0}},
            arms=[{"name": "a", "method": {"kind": "spectral", "factors": 3}, "tune": {"space": {"factors": [2, 3]}}}],
            tune={"trials": 2},
        ),
        ["tune: the split has no validation part", "or remove [tune]"],
    ),
    "space of a setting that does not exist": (
        lambda f: write_experiment(
            f,
            arms=[{"name": "a", "method": {"kind": "spectral"}, "tune": {"space": {"factor": [2, 3]}}}],
            tune={"trials": 2},
        ),
        ["arms.a.method", "no setting 'factor'", "did you mean 'factors'?"],
    ),
    "arm without a method": (lambda f: with_arms(f, {"name": "a"}), ["arms.a.method", "missing", "add it"]),
    "no TOML": (lambda f: _text(f / "bad.toml", 'name = "x\n'), ["bad.toml", "line 1", "correct that line"]),
    "no such configuration": (
        lambda f: f / "absent.toml",
        ["absent.toml", "no such configuration file", "check the path"],
    ),
}


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_nothing_is_written(fedrec: Fedrec, tmp_path: Path, case: str) -> None:
    make, said = BAD_INPUT[case]
    files = tmp_path / "files"
    files.mkdir()
    config = make(files)
    outcome = fedrec("run", config, "--out", tmp_path / "run")
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("fedrec: ")
    for part in said:
        assert part in outcome.err
    assert sorted(tmp_path.iterdir()) == [files]


def test_run_shows_the_table_and_the_report_then_refuses_the_folder(fedrec: Fedrec, tmp_path: Path) -> None:
    config = with_arms(tmp_path, POPULARITY)
    outcome = fedrec("run", config, "--set", "seeds=[7]", "--out", "here")
    assert outcome.code == 0
    assert "popularity" in outcome.out
    page = outcome.out.splitlines()[-1].removeprefix("report: ")
    assert Path(page) == Path("here/report.html")
    assert Path(page).is_file()
    assert json.loads(Path("here/manifest.json").read_text())["seeds"] == [7]
    assert outcome.err == "fedrec: [1/1] popularity, seed 7\n"  # no bars where there is no terminal

    again = fedrec("run", config, "--out", "here")
    assert (again.code, again.err) == (
        2,
        "fedrec: here: holds a finished run; choose another --out, or delete the folder\n",
    )

    shown = fedrec("report", "here")
    assert (shown.code, shown.out) == (0, outcome.out)
    assert fedrec("resume", "here").out == outcome.out
    assert "popularity" in fedrec("compare", "here", "here").out


def test_an_epsilon_is_shown_with_what_it_depends_on(fedrec: Fedrec, tmp_path: Path) -> None:
    config = with_arms(tmp_path, POPULARITY, private(epsilon=8.0, delta=1e-3))
    outcome = fedrec("run", config, "--out", "run", "--set", "seeds=[1]")
    (guarantee,) = (line for line in outcome.out.splitlines() if line.startswith("dp: "))
    assert "0.001)-differential privacy" in guarantee
    assert "one user: everything they did" in guarantee


def test_a_run_goes_to_a_folder_of_its_own_by_default(fedrec: Fedrec, tmp_path: Path) -> None:
    assert fedrec("run", with_arms(tmp_path, POPULARITY)).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny-20")
    assert (folder / "report.html").exists()


def test_a_user_with_one_interaction_is_dropped_and_reported(fedrec: Fedrec, tmp_path: Path) -> None:
    write_ratings(tmp_path / "ratings.csv", extra=(("lonely", "m1", 5, 1),))
    assert fedrec("run", with_arms(tmp_path, POPULARITY), "--out", "run").code == 0
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["data"]["users"] == USERS
    assert any(note.startswith("1 users with a single interaction are dropped") for note in manifest["split"]["notes"])


def test_ctrl_c_says_how_to_go_on(fedrec: Fedrec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.federated import FederatedRecommender

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    config = with_arms(tmp_path, POPULARITY)
    with monkeypatch.context() as patch:
        patch.setattr(FederatedRecommender, "fit", interrupt)
        outcome = fedrec("run", config, "--out", "run")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "fedrec: interrupted; finish it with: fedrec resume run"
    assert "unfinished run; finish it with: fedrec resume run" in fedrec("run", config, "--out", "run").err
    assert "not finished" in fedrec("report", "run").err
    assert fedrec("resume", "run").code == 0

    with monkeypatch.context() as patch:
        patch.setattr(FederatedRecommender, "check", interrupt)
        outcome = fedrec("run", config, "--out", "other")
    assert (outcome.code, outcome.err) == (130, "fedrec: interrupted; nothing was written\n")


def test_our_own_mistakes_keep_their_traceback(fedrec: Fedrec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.federated import FederatedRecommender

    def stumble(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FederatedRecommender, "check", stumble)
    monkeypatch.setattr(sys, "argv", ["fedrec", "run", str(with_arms(tmp_path, POPULARITY))])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize("arguments", [["--debug", "report", "none"], ["report", "none", "--debug"]])
def test_debug_keeps_the_traceback_of_a_users_mistake(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.errors import RunError

    monkeypatch.setattr(sys, "argv", ["fedrec", *arguments])
    with pytest.raises(RunError, match="not a run directory"):
        cli.main()


def test_engine_options_override_the_configuration(fedrec: Fedrec, tmp_path: Path) -> None:
    outcome = fedrec("run", with_arms(tmp_path, POPULARITY), "--engine", "raay")
    assert outcome.code == 2
    assert "engine.kind = 'raay'" in outcome.err
    outcome = fedrec("run", with_arms(tmp_path, POPULARITY), "--nodes", "2")
    assert outcome.code == 2
    assert "engine.nodes = 2: engine 'local' has no nodes" in outcome.err
    outcome = fedrec("run", with_arms(tmp_path, POPULARITY), "--engine", "ray", "--superlink", "127.0.0.1:9093")
    assert outcome.code == 2
    assert "engine 'ray' asks no SuperLink" in outcome.err


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("attacks", ["audit", "history", "poisoning"]),
        ("methods", ["ego-lightgcn", "lightgcn", "popularity", "spectral"]),
        ("metrics", ["ndcg", "coverage", "gap"]),
        ("datasets", ["ml-100k"]),
    ],
)
def test_list_names_what_a_configuration_can_name(fedrec: Fedrec, sort: str, names: list[str]) -> None:
    listed = [line.split()[0] for line in fedrec("list", sort).out.splitlines()]
    assert set(names) <= set(listed)


def test_data_shard_writes_a_folder_a_node_and_refuses_to_do_it_again(fedrec: Fedrec, tmp_path: Path) -> None:
    path, out = write_ratings(tmp_path / "ratings.csv"), tmp_path / "nodes"
    arguments = ("data", "shard", path, "--nodes", "2", "--out", out, "--column", "user=uid", "--column", "item=mid")
    outcome = fedrec(*arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.out.split() == [str(out / "node-0"), str(out / "node-1")]
    assert (out / "node-1" / "interactions.parquet").exists()
    again = fedrec(*arguments)
    assert again.code == 2
    assert "exists; choose a new folder" in again.err


def test_data_describe_shows_a_file_of_ones_own(fedrec: Fedrec, tmp_path: Path) -> None:
    path = write_ratings(tmp_path / "ratings.csv", extra=(("u0", "m0", 5, 99),))
    outcome = fedrec("data", "describe", path, "--column", "user=uid", "--column", "item=mid")
    assert outcome.code == 0, outcome.err
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in outcome.out.splitlines() if "│" in line}
    assert (rows["users"], rows["items"], rows["interactions"]) == (f"{USERS}", f"{ITEMS}", f"{USERS * EACH}")
    assert rows["components"] == "1, the largest 100.0%"
    assert rows["interactions of a user"] == "6 to 6, median 6"
    assert "repeated pairs, all but the last: 1 dropped" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.csv"], "nowhere.csv: neither a file, a folder nor a data set"),
        (["ml-10k"], "did you mean 'ml-100k'?"),
        (["ratings.csv"], "no column 'user'"),
        (["ratings.csv", "--column", "uzer=uid"], "data.columns.uzer: unknown key 'uzer'; did you mean 'user'?"),
        (["ratings.csv", "--column", "uid"], "data.columns.uid: unknown key 'uid'"),
    ],
)
def test_data_describe_refuses_what_it_cannot_read(
    fedrec: Fedrec, tmp_path: Path, arguments: list[str], said: str
) -> None:
    write_ratings(tmp_path / "ratings.csv")
    outcome = fedrec("data", "describe", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert said in outcome.err


def test_data_list_and_get(fedrec: Fedrec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.data.fetch", lambda name: Path("cache") / name)
    assert fedrec("data", "list").out.startswith("ml-100k  MovieLens-100K")
    assert fedrec("data", "get", "ml-100k").out == "cache/ml-100k\n"


def test_bars_show_the_round_the_validation_metric_and_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=True, width=120))
    with console.progress() as told:
        told(Step("federated", 3, job=2, jobs=4, done=0, planned=0, best=None, metric="ndcg@10"))
        told(Step("federated", 3, job=2, jobs=4, done=5, planned=20, best=0.125, metric="ndcg@10"))
    last = screen.getvalue()
    for shown in ("all arms and seeds", "1/4", "federated, seed 3", "5/20", "validation ndcg@10 0.1250"):
        assert shown in last


def test_the_rounds_of_a_run_elsewhere_are_a_bar_and_all_else_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the lines that `fedrec.experiment.deployed` logs and Flower streams."""
    screen = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=True, width=120))
    with console.following() as tell:
        for line in ("fedrec: federated, seed 3", "fedrec: round 5 of 20, 2 nodes, 1 failed", "fedrec: [odd] line"):
            tell(line)
    shown = screen.getvalue()
    assert "fedrec: [odd] line" in shown
    assert "fedrec: round" not in shown
    last = shown.splitlines()[-2]  # before the cursor is shown again
    assert all(part in last for part in ("federated, seed 3", "5/20", "2 nodes, 1 failed"))


def test_without_a_terminal_the_lines_of_a_run_elsewhere_are_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with console.following() as tell:
        tell("fedrec: round 5 of 20, 2 nodes")
        tell("INFO : [a] line")
    assert capsys.readouterr().err == "fedrec: round 5 of 20, 2 nodes\nINFO : [a] line\n"


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with console.progress() as told:
        for done in range(100):
            clock[0] += 1.0
            told(Step("a", 0, job=1, jobs=1, done=done, planned=99, best=None, metric="ndcg@10"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["fedrec: [1/1] a, seed 0", *(f"fedrec: [1/1] a, seed 0: {done}/99" for done in (31, 62, 93))]


def test_version(fedrec: Fedrec) -> None:
    assert fedrec("--version").out == f"fedrec {__version__}\n"


def test_help_does_not_wait_for_torch() -> None:
    script = "import sys, fedrec.cli; sys.exit(len({'torch', 'pandas', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument 'CONFIG'; see: fedrec run --help"),
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?; see: fedrec --help"),
        (["run", "a", "--sett", "b"], "No such option '--sett'. Did you mean '--set'?; see: fedrec run --help"),
        (["run", "a", "--nodes", "two"], "Invalid value for '--nodes': 'two' is not a valid integer; see: fedrec run"),
        (["data", "get"], "Missing argument 'NAME'; see: fedrec data get --help"),
    ],
)
def test_a_usage_error_is_one_line_and_leaves_with_two(fedrec: Fedrec, arguments: list[str], said: str) -> None:
    outcome = fedrec(*arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith(f"fedrec: {said}")


def test_help_says_what_an_argument_is(fedrec: Fedrec) -> None:
    assert "CONFIG  The experiment, a TOML file." in fedrec("run", "--help").out


def test_without_a_command_there_is_help(fedrec: Fedrec) -> None:
    for arguments in ([], ["data"]):
        outcome = fedrec(*arguments)
        assert outcome.code == 2
        assert "Commands:" in outcome.out + outcome.err


@pytest.mark.parametrize("command", ["report", "resume"])
def test_a_folder_that_cannot_be_written_is_one_line(
    fedrec: Fedrec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    assert fedrec("run", with_arms(tmp_path, POPULARITY), "--out", "run", "--set", "seeds=[1]").code == 0
    if command == "resume":
        manifest = json.loads(Path("run/manifest.json").read_text())
        Path("run/manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    opened = Path.open

    def refuse(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        """As for a user who may not write here; the tests may run as one who may write anywhere."""
        if "w" in mode and path.suffix == ".part":
            raise PermissionError(13, "Permission denied")
        return opened(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", refuse)
    outcome = fedrec(command, "run")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "cannot be written (Permission denied); make its folder writable" in outcome.err


def test_runs_on_other_data_are_compared_only_on_demand(fedrec: Fedrec, tmp_path: Path) -> None:
    config = with_arms(tmp_path, POPULARITY)
    assert fedrec("run", config, "--out", "time", "--set", "seeds=[1]").code == 0
    order = ("--set", "data.split.order=random", "--set", "data.split.seed=4")
    assert fedrec("run", config, "--out", "random", "--set", "seeds=[1]", *order).code == 0
    assert json.loads(Path("random/manifest.json").read_text())["split"]["seed"] == 4
    refused = fedrec("compare", "time", "random")
    assert refused.code == 2
    assert "--across-data" in refused.err
    assert "random" in fedrec("compare", "time", "random", "--across-data").out


def test_a_tuned_run_shows_its_trials_and_what_was_chosen(fedrec: Fedrec, tmp_path: Path) -> None:
    arm = {"name": "s", "method": {"kind": "spectral", "factors": 3}, "tune": {"space": {"factors": [2, 4]}}}
    config = write_experiment(tmp_path, arms=[arm], tune={"sampler": "grid"}, seeds=[1])
    outcome = fedrec("run", config, "--out", "run")
    assert outcome.code == 0, outcome.err
    assert outcome.err == "fedrec: [1/3] s, trial 0\nfedrec: [3/3] s, seed 1\n"
    page = Path("run/report.html").read_text()
    assert '<section id="tuning">' in page
    assert "2 finished, 0 given up, 0 failed" in page
    assert "factors = " in page
    again = fedrec("run", "run/tuned.toml", "--out", "again", "--set", "data.split.order=random")
    assert again.code == 0, again.err
    assert '<section id="tuning">' not in Path("again/report.html").read_text()
