"""The config is checked whole, resolved against its own folder, and overridden key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon import config
from daemon.errors import ConfigError, Fault

BASE = Path("/srv/styles")


def build(raw: dict[str, object], **environment: str) -> config.Config:
    """Build a config; keywords are overrides without their prefix."""
    variables = {f"STYLETRANSFERD__{name}": value for name, value in environment.items()}
    return config.build(raw, BASE, "c.yaml", variables)


def faults(raw: dict[str, object], **environment: str) -> list[Fault]:
    """Build what must be refused, and give every fault."""
    with pytest.raises(ConfigError) as caught:
        build(raw, **environment)
    return list(caught.value.faults)


def test_an_empty_config_is_the_contracts_defaults() -> None:
    """Every key has the default that the contract fixes."""
    assert build({}).model_dump(mode="json") == {
        "folders": {
            "inbox": "/srv/styles/inbox",
            "outbox": "/srv/styles/outbox",
            "spool": "/srv/styles/spool",
            "styles": None,
        },
        "inbox": {
            "observer": "auto",
            "settle_s": 2.0,
            "rescan_s": 15.0,
            "sidecar": "required",
            "ignore": [],
            "max_file_mb": 256,
            "max_megapixels": 200,
            "keep_originals": False,
        },
        "engine": {
            "device": "auto",
            "precision": "auto",
            "weights": "bundled",
            "memory_limit_mb": None,
            "job_timeout_s": None,
            "max_attempts": 3,
            "checkpoint_s": 30.0,
        },
        "schedule": {"window": None},
        "defaults": {},
        "outbox": {"retention_days": {"done": 7, "failed": 30}, "gallery": True},
        "log": {"level": "info", "format": "auto"},
        "metrics": {"textfile": None},
    }


def test_every_fault_comes_at_once() -> None:
    """File, key path, what was found, what is allowed and did-you-mean, for all faults of all sections."""
    raw = {
        "inbx": {},
        "inbox": {"settle_s": 0, "rescn_s": 1, "observer": "of"},
        "engine": {"max_attempts": True, "device": "gpu0"},
        "outbox": {"retention_days": {"done": -1}},
        "defaults": {"sizee": 1, "seed": -1, "content": "a.jpg"},
        "log": 3,
    }

    found = {fault.key: fault for fault in faults(raw)}

    assert set(found) == {
        *("inbx", "inbox.settle_s", "inbox.rescn_s", "inbox.observer", "engine.max_attempts", "engine.device"),
        *("outbox.retention_days.done", "defaults.sizee", "defaults.seed", "defaults.content", "log"),
    }
    assert {fault.file for fault in found.values()} == {"c.yaml"}
    assert found["inbox.rescn_s"].hint == "did you mean 'rescan_s'?"
    assert found["defaults.sizee"].hint == "did you mean 'size'?"
    assert found["inbox.settle_s"].found == "0"
    assert found["inbox.settle_s"].allowed == "greater than 0"
    assert found["log"].allowed == "keys and values (level, format)"


@pytest.mark.parametrize(
    ("section", "key", "bad"),
    [
        ("folders", "inbox", [3, None, []]),
        ("inbox", "observer", ["on", True, 3, "Off"]),
        ("inbox", "settle_s", [0, -1, True, "x", float("nan"), float("inf"), None]),
        ("inbox", "rescan_s", [0, -1, False, 10**10]),
        ("inbox", "sidecar", ["maybe", True]),
        ("inbox", "ignore", ["*.bak", 3]),
        ("inbox", "max_file_mb", [0, True, float("inf")]),
        ("inbox", "max_megapixels", [-1, "many"]),
        ("inbox", "keep_originals", ["perhaps", 3]),
        ("engine", "device", ["gpu:", "gpu:x", "tpu", 0, None, "gpu:1 "]),
        ("engine", "precision", ["float16", 32]),
        ("engine", "weights", [3, None]),
        ("engine", "memory_limit_mb", [0, True, 1.5]),
        ("engine", "job_timeout_s", [0, -5, True]),
        ("engine", "max_attempts", [0, 2.5, True]),
        (
            "schedule",
            "window",
            ["", "22:00", "22:00-", "24:00-06:00", "22:00-06:60", "2:00-6:00", "22:00-06:00-07:00", 22],
        ),
        ("outbox", "gallery", ["perhaps"]),
        ("log", "level", ["INFO", "trace"]),
        ("log", "format", ["xml"]),
        ("metrics", "textfile", [3]),
    ],
)
def test_bad_values_are_refused_under_their_key(section: str, key: str, bad: list[object]) -> None:
    """Each value out of range or of another kind is one fault of that very key."""
    for value in bad:
        assert [fault.key for fault in faults({section: {key: value}})] == [f"{section}.{key}"], value


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("inbox", "observer", False, "off"),  # YAML's reading of `observer: off`
        ("inbox", "observer", "native", "native"),
        ("inbox", "ignore", ["*.bak"], ("*.bak",)),
        ("engine", "device", "gpu:12", "gpu:12"),
        ("engine", "memory_limit_mb", 4096, 4096),
        ("schedule", "window", "22:00-06:00", "22:00-06:00"),
    ],
)
def test_good_values_are_taken(section: str, key: str, value: object, expected: object) -> None:
    """The contract's values are taken as YAML gives them."""
    assert getattr(getattr(build({section: {key: value}}), section), key) == expected


def test_relative_paths_start_at_the_configs_folder(tmp_path: Path) -> None:
    """Folders, weights and the metrics file lie beside the config file; absolute paths stay."""
    (tmp_path / "c.yaml").write_text(
        "folders: {inbox: ./in, outbox: /mnt/out, spool: s, styles: ../styles}\n"
        "engine: {weights: w.h5}\nmetrics: {textfile: m.prom}\n"
    )

    loaded = config.load(tmp_path / "c.yaml")

    assert loaded.folders.inbox == tmp_path / "in"
    assert loaded.folders.outbox == Path("/mnt/out")
    assert loaded.folders.spool == tmp_path / "s"
    assert loaded.folders.styles == tmp_path / "../styles"
    assert loaded.engine.weights == str(tmp_path / "w.h5")
    assert loaded.metrics.textfile == tmp_path / "m.prom"


def test_a_relative_config_path_gives_absolute_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of the working folder changes nothing."""
    (tmp_path / "c.yaml").write_text("")
    monkeypatch.chdir(tmp_path)

    assert config.load(Path("c.yaml")).folders.inbox == tmp_path / "inbox"


def test_a_tilde_is_somebodys_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is expanded everywhere; a name nobody has is a folder's name."""
    monkeypatch.setenv("HOME", "/home/ann")

    built = build(
        {"folders": {"inbox": "~/in", "spool": "~nobody-of-that-name/s"}, "metrics": {"textfile": "~/m"}}
    )

    assert built.folders.inbox == Path("/home/ann/in")
    assert built.folders.spool == BASE / "~nobody-of-that-name/s"
    assert built.metrics.textfile == Path("/home/ann/m")


@pytest.mark.parametrize("weights", ["bundled", "imagenet"])
def test_words_for_weights_are_no_paths(weights: str) -> None:
    """`bundled` and `imagenet` stay as they are."""
    assert build({"engine": {"weights": weights}}).engine.weights == weights


@pytest.mark.parametrize(
    ("folders", "key"),
    [
        ({"outbox": "inbox"}, "folders.outbox"),
        ({"outbox": "inbox/results"}, "folders.outbox"),
        ({"outbox": "x/../inbox/results"}, "folders.outbox"),
        ({"spool": "./inbox/.spool"}, "folders.spool"),
        ({"styles": "inbox/styles"}, "folders.styles"),
        ({"outbox": "spool"}, "folders.outbox"),
        ({"inbox": "spool/in"}, "folders.inbox"),
    ],
)
def test_folders_inside_the_inbox_or_the_spool_are_refused(folders: dict[str, str], key: str) -> None:
    """A result inside the inbox would be taken for the next drop, for ever."""
    (fault,) = faults({"folders": folders})

    assert fault.key == key


def test_folders_beside_each_other_are_taken() -> None:
    """A common start of the names is no nesting, and the styles may lie in the outbox."""
    build(
        {"folders": {"inbox": "in", "outbox": "in-results", "spool": "in.spool", "styles": "in-results/best"}}
    )


@pytest.mark.parametrize(
    ("variable", "value", "section", "expected"),
    [
        ("FOLDERS__INBOX", "/mnt/in", "folders", {"inbox": Path("/mnt/in")}),
        ("FOLDERS__STYLES", "", "folders", {"styles": None}),
        ("INBOX__SETTLE_S", "1", "inbox", {"settle_s": 1.0}),
        ("INBOX__OBSERVER", "off", "inbox", {"observer": "off"}),
        ("INBOX__IGNORE", "['*.bak', x]", "inbox", {"ignore": ("*.bak", "x")}),
        ("ENGINE__DEVICE", "gpu:1", "engine", {"device": "gpu:1"}),
        ("ENGINE", "{device: cpu}", "engine", {"device": "cpu", "max_attempts": 3}),
        ("SCHEDULE__WINDOW", "22:00-06:00", "schedule", {"window": "22:00-06:00"}),
        ("OUTBOX__GALLERY", "no", "outbox", {"gallery": False}),
        ("LOG__LEVEL", "debug", "log", {"level": "debug"}),
        ("METRICS__TEXTFILE", "/m.prom", "metrics", {"textfile": Path("/m.prom")}),
        ("inbox__settle_s", "3.5", "inbox", {"settle_s": 3.5}),
    ],
)
def test_a_variable_overrides_a_key(
    variable: str, value: str, section: str, expected: dict[str, object]
) -> None:
    """Every section can be overridden, values read as YAML, over what the file says."""
    part = getattr(
        build({"inbox": {"settle_s": 9}, "engine": {"max_attempts": 7}}, **{variable: value}), section
    )

    assert {key: getattr(part, key) for key in expected} == expected


def test_an_override_leaves_its_neighbours() -> None:
    """Only the key named changes, also two levels down and in the house defaults."""
    raw = {"inbox": {"rescan_s": 9}, "outbox": {"retention_days": {"failed": 1}}, "defaults": {"seed": 5}}

    built = build(raw, INBOX__SETTLE_S="1", OUTBOX__RETENTION_DAYS__DONE="3", DEFAULTS__SIZE="256")

    assert (built.inbox.settle_s, built.inbox.rescan_s) == (1.0, 9.0)
    assert built.outbox.retention_days.model_dump() == {"done": 3.0, "failed": 1.0}
    assert built.defaults == {"seed": 5, "size": 256}
    assert raw == {
        "inbox": {"rescan_s": 9},
        "outbox": {"retention_days": {"failed": 1}},
        "defaults": {"seed": 5},
    }


@pytest.mark.parametrize("value", ["", "null"])
def test_an_empty_section_counts_as_not_set(value: str) -> None:
    """`inbox:` with nothing below it has the defaults, in the file and in a variable."""
    assert build({"inbox": None, "defaults": None}) == build({})
    assert build({}, INBOX=value) == build({})


@pytest.mark.parametrize(
    ("variable", "value", "key", "hint"),
    [
        ("INBX__SETTLE_S", "1", "inbx", "did you mean 'inbox'?"),
        ("", "1", "", "known: folders, inbox, engine, schedule, defaults, outbox, log, metrics"),
        ("INBX", "", "inbx", "did you mean 'inbox'?"),
        ("INBOX__SETLE_S", "1", "inbox.setle_s", "did you mean 'settle_s'?"),
        ("INBOX__SETTLE_S", "-1", "inbox.settle_s", ""),
        ("DEFAULTS__SIZE", "3", "defaults.size", ""),
        ("INBOX", "{settle_s: 0}", "inbox.settle_s", ""),
        ("LOG", "3", "log", ""),
    ],
)
def test_a_faulty_variable_is_named(variable: str, value: str, key: str, hint: str) -> None:
    """A fault that comes from the environment names the variable, not the file where nobody would find it."""
    (fault,) = faults({}, **{variable: value})

    assert (fault.file, fault.key, fault.hint) == (f"STYLETRANSFERD__{variable}", key, hint)


@pytest.mark.parametrize("value", [": :", "[", "\udcff", "&a x"])
def test_a_variable_that_is_no_yaml_is_named(value: str) -> None:
    """A value that cannot be read is a fault of its variable."""
    assert [fault.file for fault in faults({}, INBOX__SETTLE_S=value)] == ["STYLETRANSFERD__INBOX__SETTLE_S"]


def test_variables_of_the_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment given, the process's own is used; similar names are none of ours."""
    monkeypatch.setenv("STYLETRANSFERD__INBOX__SETTLE_S", "4")
    monkeypatch.setenv("STYLETRANSFERD_OTHER", "x")

    assert config.build({}, BASE).inbox.settle_s == 4.0


@pytest.mark.parametrize(
    "text",
    [
        *("- a", "3", "1: 2", "1:", "inbx:", "inbox: [", "inbox: &a {}", "a: 1\na: 2"),
        "log: {level: info, level: info}",
    ],
)
def test_a_file_that_is_no_config_is_one_fault(text: str, tmp_path: Path) -> None:
    """What is not sections of keys is refused with the file's name."""
    path = tmp_path / "c.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        config.load(path)

    assert [fault.file for fault in caught.value.faults] == [str(path)]


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """A file of comments alone is a config."""
    path = tmp_path / "c.yaml"
    path.write_text("# nothing\n")

    assert config.load(path) == config.build({}, tmp_path, environment={})


def test_a_missing_file_is_a_fault_that_says_what_to_do(tmp_path: Path) -> None:
    """A config that cannot be read is a config error, not a traceback."""
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "none.yaml")

    (fault,) = caught.value.faults
    assert "--config" in fault.hint


def test_the_config_given_comes_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, else the variable, else the system's file."""
    monkeypatch.delenv("STYLETRANSFERD_CONFIG", raising=False)
    assert config.find(None) == Path("/etc/styletransferd/config.yaml")

    monkeypatch.setenv("STYLETRANSFERD_CONFIG", "/x.yaml")
    assert config.find(None) == Path("/x.yaml")
    assert config.find(Path("/y.yaml")) == Path("/y.yaml")


def test_keys_for_later_are_named() -> None:
    """Keys that are taken and do nothing yet can be listed."""
    assert config.without_effect(build({})) == ()
    assert config.without_effect(build({"outbox": {"gallery": False}, "metrics": {"textfile": "m"}})) == (
        "outbox.gallery",
    )
