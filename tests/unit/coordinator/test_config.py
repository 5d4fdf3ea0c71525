"""A configuration is right, or every mistake in it is named with its key and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.config import ClusterConfig, is_participant, load
from coordinator.errors import ConfigError

GOOD = """
[cluster]
id = "demo"
secret = "sixteen bytes or more"

[[nodes]]
name = "n1"
raft_address = "127.0.0.1:7001"
client_address = "127.0.0.1:8001"
data_dir = "data/n1"

[participants]
bank-a = "http://127.0.0.1:9001/"
"""
KNOWN = "cluster, nodes, participants, timing, limits, notify, alarms, raft"
SECOND = GOOD[GOOD.index("[[nodes]]") : GOOD.index("[participants]")]


def other_node(number: int) -> str:
    return SECOND.replace("n1", f"n{number}").replace("001", f"{number:03}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cluster.toml"


def read(file: Path, text: str = GOOD, **environment: str) -> ClusterConfig:
    file.write_text(text, encoding="utf-8")
    return load(file, environment)


def mistakes(file: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(file, text, **environment)
    assert refused.value.source == str(file)
    return [str(mistake) for mistake in refused.value.mistakes]


def test_a_good_file_has_defaults_and_paths_relative_to_itself(file: Path) -> None:
    config = read(file)
    assert config.node("n1").data_dir == file.parent / "data/n1"
    assert config.node("n1").url == "http://127.0.0.1:8001"
    assert config.participants == {"bank-a": "http://127.0.0.1:9001"}
    assert config.limits.in_flight_max == 4_096


def test_the_secret_is_not_printed(file: Path) -> None:
    assert "sixteen bytes" not in repr(read(file))


def test_every_key_is_also_a_variable(file: Path) -> None:
    config = read(
        file,
        COMMITD_CLUSTER__ID="other",
        COMMITD_LIMITS__IN_FLIGHT_MAX="7",
        COMMITD_TIMING__CALL_TIMEOUT_S="0.5",
        COMMITD_NODES__N1__DATA_DIR="/var/lib/commitd",
        COMMITD_NODES__0__CLIENT_URL="https://commitd.example",
        COMMITD_PARTICIPANTS__BANK_A="http://bank-a:80",
        COMMITD_PARTICIPANTS__SHOP="http://shop:80",
        COMMITD_URL="http://not-a-key",
        UNRELATED="1",
    )
    assert config.cluster.id == "other"
    assert config.limits.in_flight_max == 7
    assert config.timing.call_timeout_s == 0.5
    assert config.node("n1").data_dir == Path("/var/lib/commitd")
    assert config.node("n1").url == "https://commitd.example"
    assert config.participants == {"bank-a": "http://bank-a:80", "shop": "http://shop:80"}


def test_a_variable_can_hold_a_whole_section(file: Path) -> None:
    config = read(file, COMMITD_PARTICIPANTS='{"x": "http://x:1"}')
    assert config.participants == {"x": "http://x:1"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('id = "demo"\n', "", "cluster.id: is missing; add it"),
        ('id = "demo"', 'id = "de mo"', "cluster.id: 'de mo' is not a name"),
        ("secret =", "secrte =", "cluster.secrte: unknown key; did you mean secret?"),
        ('"sixteen bytes or more"', '"short"', "cluster: the secret is too short: at least 16 bytes"),
        ("id = ", 'proof_secret = "short"\nid = ', "cluster: the proof_secret is too short: at least 16 bytes"),
        ('secret = "sixteen', 'secret_file = "x"\nsecret = "sixteen', "cluster: give exactly one of secret"),
        (":7001", ":70010", "nodes.0.raft_address: 70010 is not a port; use 1 to 65535"),
        ('"127.0.0.1:8001"', '"127.0.0.1"', "nodes.0.client_address: write host:port"),
        ("8001", "7001", "nodes.0.client_address: '127.0.0.1:7001' is taken by nodes.0.raft_address"),
        ("data_dir", "datadir", "nodes.0.datadir: unknown key; did you mean data_dir?"),
        ('"http://127.0.0.1:9001/"', '"127.0.0.1:9001"', "participants.bank-a: write a URL such as"),
        ('"http://127.0.0.1:9001/"', '"http://h:99999"', "participants.bank-a: the port is not in 1 to 65535"),
        ("bank-a =", '"bank a" =', "participants.bank a: 'bank a' is not a name"),
        ("[participants]", "[limits]\nin_flight_max = 0\n[participants]", "limits.in_flight_max: input should be"),
        ("[participants]", "[timing]\ncall_timeout_s = 'soon'\n[participants]", "timing.call_timeout_s: "),
        ("[participants]", "[raft]\nelection_min_s = 0.2\n[participants]", "raft: election_min_s must be more than"),
        ("[participants]", "[extra]\n[participants]", "extra: unknown key; known here: cluster, nodes"),
        ("[cluster]", "[cluster", "file: is not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_to_do(file: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    found = mistakes(file, GOOD.replace(old, new))
    assert any(mistake.startswith(said) for mistake in found), found


def test_an_even_number_of_nodes_is_refused(file: Path) -> None:
    assert mistakes(file, GOOD + other_node(2)) == [
        "nodes: 2 nodes survive no more failures than 1; use an odd number of them"
    ]


def test_a_cluster_has_one_to_nine_nodes(file: Path) -> None:
    many = GOOD + "".join(other_node(number) for number in range(2, 12))
    assert mistakes(file, many)[0].startswith("nodes: there are 11; configure 1 to 9")
    none = GOOD.replace(SECOND, "").replace("[cluster]", "nodes = []\n[cluster]")
    assert mistakes(file, none)[0].startswith("nodes: there are 0; configure 1 to 9")


def test_nodes_share_neither_name_nor_address_nor_directory(file: Path) -> None:
    twins = GOOD + other_node(2) + SECOND
    assert mistakes(file, twins) == [
        "nodes.2.name: 'n1' is taken by nodes.0.name; each needs its own",
        "nodes.2.raft_address: '127.0.0.1:7001' is taken by nodes.0.raft_address; each needs its own",
        "nodes.2.client_address: '127.0.0.1:8001' is taken by nodes.0.client_address; each needs its own",
        "nodes.2.data_dir: 'data/n1' is taken by nodes.0.data_dir; each needs its own",
    ]


def test_all_mistakes_are_named_in_one_go(file: Path) -> None:
    text = GOOD.replace("7001", "0").replace("http:", "gopher:").replace('id = "demo"\n', "") + SECOND
    assert len(mistakes(file, text)) >= 5


def test_a_mistake_in_a_variable_names_the_variable(file: Path) -> None:
    found = mistakes(file, GOOD, COMMITD_LIMITS__IN_FLIGHT_MAX="many")
    assert found[0].startswith("limits.in_flight_max (from COMMITD_LIMITS__IN_FLIGHT_MAX): ")


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("COMMITD_LIMIT__IN_FLIGHT_MAX", "COMMITD_LIMIT__IN_FLIGHT_MAX: no such section; did you mean limits?"),
        ("COMMITD_X__Y", f"COMMITD_X__Y: no such section; there are {KNOWN}"),
    ],
)
def test_a_variable_that_means_no_section_is_a_mistake_and_not_ignored(file: Path, variable: str, said: str) -> None:
    assert mistakes(file, GOOD, **{variable: "7"}) == [said]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace(SECOND, "").replace("[cluster]", "nodes = 3\n[cluster]"), "nodes: write one [[nodes]] table for"),
        (GOOD.replace("[[nodes]]", "[nodes]"), "nodes: write one [[nodes]] table for"),
        (GOOD.replace("[cluster]", "limits = 3\n[cluster]"), "limits: write a table: [limits]"),
        (GOOD.replace("[participants]", "[raft]\n[participants.x]"), "participants.x: input should be a valid string"),
    ],
)
def test_a_value_where_a_table_belongs_is_told_in_words_of_toml(file: Path, text: str, said: str) -> None:
    found = mistakes(file, text)
    assert any(mistake.startswith(said) for mistake in found), found


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_where_applications_may_be_notified_is_read_and_its_secret_is_not_printed(file: Path) -> None:
    config = read(file, f'{GOOD}[notify]\nallow = ["https://shop.example/hooks"]\nsecret = "{SECRET}"\n')
    assert config.notify.allow == ("https://shop.example/hooks",)
    assert SECRET not in repr(config)
    assert read(file).notify.allow == ()
    anchored = read(file, f'{GOOD}[notify]\nallow = ["http://a"]\nsecret_file = "s"\n')
    assert anchored.notify.secret_file == file.parent / "s"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('allow = ["http://a"]', "notify: with allow, give exactly one of secret and secret_file (there is none)"),
        (f'secret = "{SECRET}"\nsecret_file = "s"', "notify: with allow, give exactly one of secret and secret_file"),
        ('allow = ["shop.example"]\nsecret_file = "s"', "notify.allow.0: write http:// or https://"),
        ('allow = ["http://a?x"]\nsecret_file = "s"', "notify.allow.0: leave the query out"),
        ('secret = "whsec_short"', "notify.secret: a secret is whsec_ and 24 to 64 random bytes in base64"),
    ],
)
def test_a_mistake_about_notices_says_what_to_do(file: Path, section: str, said: str) -> None:
    (mistake,) = mistakes(file, f"{GOOD}[notify]\n{section}\n")
    assert mistake.startswith(said)
    assert "short" not in mistake


def test_a_file_that_is_not_there_is_one_clear_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nowhere.toml", {})


def test_a_node_that_is_not_configured_is_refused_with_those_that_are(file: Path) -> None:
    with pytest.raises(ConfigError, match="n7: no such node is configured; there are n1"):
        read(file).node("n7")


def test_a_participants_file_is_told_from_a_clusters(file: Path) -> None:
    file.write_text('name = "bank-a"\ndata = "a.db"\n', encoding="utf-8")
    assert is_participant(file)
    file.write_text(GOOD, encoding="utf-8")
    assert not is_participant(file)
    assert not is_participant(file.parent / "nowhere.toml")
