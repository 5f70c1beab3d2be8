"""The configuration: where it comes from, and what is said when it is wrong."""

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, load


def written(text: str) -> Path:
    file = Path("gateway.toml")
    file.write_text(text)
    return file


def problems(text: str, environ: dict[str, str] | None = None, flags: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(written(text), environ=environ or {}, flags=flags)
    return str(caught.value).splitlines()


def config(text: str = "", environ: dict[str, str] | None = None, flags: tuple[str, ...] = ()) -> Config:
    return load(written(text), environ=environ or {}, flags=flags).config


class TestDefaults:
    def test_an_empty_file_is_a_whole_configuration(self) -> None:
        empty = config("")

        assert [(listener.protocol, listener.bind) for listener in empty.listeners] == [
            ("http", "127.0.0.1:8000"),
            ("mqtt", "127.0.0.1:1883"),
        ]
        assert empty.data_dir == Path("var")
        assert empty.database_url == "sqlite:///var/gateway.sqlite3"
        assert empty.layer.url == "memory://"

    def test_no_file_at_all_is_the_same(self) -> None:
        assert load(environ={}).config == config("")

    def test_the_shipped_file_says_what_the_defaults_are(self) -> None:
        shipped = Path(__file__).parents[4] / "config" / "gateway.toml"

        loaded = load(shipped, environ={}).config

        assert loaded.database_url == config("").database_url
        assert loaded.listeners == config("").listeners
        assert (loaded.data_dir, loaded.server, loaded.layer, loaded.log) == (
            config("").data_dir,
            config("").server,
            config("").layer,
            config("").log,
        )

    def test_the_database_is_in_the_data_directory(self) -> None:
        assert config('data_dir = "/srv/gw"').sqlite_file() == Path("/srv/gw/gateway.sqlite3")


class TestSources:
    def test_the_environment_is_stronger_than_the_file_and_a_flag_stronger_than_both(self) -> None:
        text = '[log]\nlevel = "error"\nformat = "json"'

        assert config(text).log.level == "error"
        assert config(text, {"GATEWAY_LOG__LEVEL": "info"}).log.level == "info"
        assert config(text, {"GATEWAY_LOG__LEVEL": "info"}, ("log.level=debug",)).log.level == "debug"
        assert config(text, {"GATEWAY_LOG__LEVEL": "info"}).log.format == "json"

    def test_gateway_config_names_the_file(self) -> None:
        Path("other.toml").write_text('data_dir = "other"')

        loaded = load(environ={"GATEWAY_CONFIG": "other.toml"})

        assert loaded.config.data_dir == Path("other")

    def test_text_becomes_what_the_key_wants(self) -> None:
        environ = {"GATEWAY_SERVER__SHUTDOWN_TIMEOUT_S": "2.5", "GATEWAY_SERVER__ALLOWED_HOSTS": "a.example, b.example"}

        server = config("", environ).server

        assert server.shutdown_timeout_s == 2.5
        assert server.allowed_hosts == ("a.example", "b.example")

    def test_a_number_selects_a_listener_even_a_default_one(self) -> None:
        listeners = config("", {"GATEWAY_LISTENERS__1__BIND": "127.0.0.1:0"}).listeners

        assert [listener.bind for listener in listeners] == ["127.0.0.1:8000", "127.0.0.1:0"]

    def test_a_secret_can_come_from_a_file(self) -> None:
        Path("url").write_text("postgresql://gw:secret@db/gateway\n")

        assert config("", {"GATEWAY_DATABASE__URL_FILE": "url"}).database_url == "postgresql://gw:secret@db/gateway"

    def test_a_secret_file_that_is_not_there_is_named(self) -> None:
        assert problems("", {"GATEWAY_DATABASE__URL_FILE": "absent"}) == [
            "environment GATEWAY_DATABASE__URL_FILE: cannot read absent: No such file or directory"
        ]

    def test_variables_that_an_orchestrator_sets_for_a_service_called_gateway_are_not_ours(self) -> None:
        environ = {
            "GATEWAY_SERVICE_HOST": "10.0.0.1",
            "GATEWAY_SERVICE_PORT_HTTP": "8000",
            "GATEWAY_PORT": "tcp://10.0.0.1:8000",
            "GATEWAY_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        }

        assert config("", environ) == config("")

    def test_the_origin_of_each_written_value_is_known(self) -> None:
        file = written('data_dir = "x"\n\n[log]\nlevel = "info"')

        origins = load(file, environ={"GATEWAY_LAYER__URL": "memory://"}, flags=["log.format=json"]).origins

        assert origins["data_dir"] == "gateway.toml:1"
        assert origins["log.level"] == "gateway.toml:4"
        assert origins["layer.url"] == "environment GATEWAY_LAYER__URL"
        assert origins["log.format"] == "--set log.format"


class TestFaults:
    def test_an_unknown_key_is_shown_with_its_line_and_the_nearest_known_one(self) -> None:
        assert problems('data_dir = "var"\n\n[[listners]]\nprotocol = "http"') == [
            'gateway.toml:3: unknown key "listners"; did you mean "listeners"?'
        ]

    def test_an_unknown_key_in_a_table_likewise(self) -> None:
        assert problems("[server]\nshutdown_timeout = 3") == [
            'gateway.toml:2: unknown key "server.shutdown_timeout"; did you mean "shutdown_timeout_s"?'
        ]

    def test_a_key_like_no_other_is_told_what_there_is(self) -> None:
        assert problems("[layer]\nxyz = 1") == ['gateway.toml:2: unknown key "layer.xyz"; known here: url']

    def test_a_listener_has_the_keys_of_its_protocol_and_no_others(self) -> None:
        found = problems('[[listeners]]\nprotocol = "mqtt"\nbind = "127.0.0.1:1883"\nallow_anonymus = true')

        assert found == ['gateway.toml:4: unknown key "listeners.0.allow_anonymus"; did you mean "allow_anonymous"?']

    def test_every_fault_is_found_not_only_the_first(self) -> None:
        text = 'data_dir = 5\n[log]\nlevel = "loud"\n[server]\nshutdown_timeout_s = "ten"\nsecret_key = ["a"]'

        assert (
            problems(text, {"GATEWAY_LOG__FORMAT": "xml"})
            == [
                "gateway.toml:1: data_dir: expected a path, as a string, got the number 5",
                'gateway.toml:3: log.level: expected one of "debug", "info", "warning", "error", got the string "loud"',
                'environment GATEWAY_LOG__FORMAT: log.format: expected one of "console", "json", got the string "xml"',
                'gateway.toml:5: server.shutdown_timeout_s: expected a number, got the string "ten"',
                "gateway.toml:6: server.secret_key: expected a string, got a list",
            ]
            or sorted(problems(text)) == []
        )

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("log = 1", "gateway.toml:1: log: expected a table [log], got the number 1"),
            ("[data_dir]\nx = 1", "gateway.toml:1: data_dir: expected a path, as a string, got a table"),
            ("[[log]]\nlevel = 'info'", "gateway.toml:1: log: expected a table [log], got an array of tables"),
            ("data_dir = true", "gateway.toml:1: data_dir: expected a path, as a string, got true"),
            ("data_dir = 2026-01-01", "gateway.toml:1: data_dir: expected a path, as a string, got 2026-01-01"),
            (
                "[server]\nallowed_hosts = 'a'",
                'gateway.toml:2: server.allowed_hosts: expected a list, each a string, got the string "a"',
            ),
            (
                "[server]\nallowed_hosts = [1]",
                "gateway.toml:2: server.allowed_hosts: expected a list, each a string, got a list",
            ),
            (
                "[server]\nshutdown_timeout_s = 0",
                "gateway.toml:2: server.shutdown_timeout_s: must be more than 0, not 0.0",
            ),
            ("listeners = []", "gateway.toml:1: listeners: there must be at least one"),
            ("listeners = 3", "gateway.toml:1: listeners: expected tables, each headed [[listeners]]"),
            (
                "[[listeners]]\nprotocol = 'http'",
                "gateway.toml:1: listeners.0.bind is missing: expected a string",
            ),
            (
                "[[listeners]]\nprotocol = 'http'\nbind = '127.0.0.1'",
                "gateway.toml:3: listeners.0.bind: bind '127.0.0.1': expected host:port, [v6]:port or unix:/path",
            ),
            (
                "[[listeners]]\nprotocol = 'htp'\nbind = '127.0.0.1:1'",
                "gateway.toml:2: listeners.0.protocol: no protocol 'htp' is installed;"  # noqa: ISC004
                " known: amqtt, http, mqtt, mqtt-bridge",
            ),
            (
                "[database]\nurl = 'mysql://x/y'",
                'gateway.toml:2: database.url: expected "sqlite:///path" or "postgresql://user:password@host/name"',
            ),
            (
                "[database]\nurl = 'postgresql://u:p@h'",
                "gateway.toml:2: database.url: the name of the database is missing after the host",
            ),
            (
                "[layer]\nurl = 'redis://localhost?capacity=many'",
                "gateway.toml:2: layer.url: the option capacity of a channel layer URL is a number",
            ),
            (
                "[mqtt]\nstore = 'sqlite:///x'",
                'gateway.toml:2: mqtt.store: expected "sqlite", "memory" or "redis://host:port/db"',
            ),
            (
                "[server]\npublic_url = 'gateway.example.org'",
                'gateway.toml:2: server.public_url: expected "https://host" or "http://host:port", without a path',
            ),
        ],
    )
    def test_a_fault_names_its_line_the_key_what_was_expected_and_what_came(self, text: str, fault: str) -> None:
        assert problems(text) == [fault]

    @pytest.mark.parametrize("host", ["192.0.2.1:8000", "http://gw", "gw/", "[2001:db8::1]:80", "user@gw", ""])
    def test_an_allowed_host_that_no_request_could_ask_for_is_a_fault(self, host: str) -> None:
        expected = "expected a host name or address, without scheme, port and path"

        assert problems(f"[server]\nallowed_hosts = ['{host}']") == [
            f'gateway.toml:2: server.allowed_hosts: {expected}; got "{host}"'
        ]

    def test_two_listeners_at_one_address_are_a_fault(self) -> None:
        text = (
            "[[listeners]]\nprotocol='http'\nbind='127.0.0.1:80'\n[[listeners]]\nprotocol='mqtt'\nbind='127.0.0.1:80'"
        )

        assert problems(text) == [
            "gateway.toml:4: listeners.1.bind: 127.0.0.1:80 is another listener's, at gateway.toml:1"
        ]

    def test_what_is_not_toml_is_shown_with_its_line(self) -> None:
        assert problems("a = 1\nb = = 2") == ["gateway.toml:2: not valid TOML: Invalid value"]

    def test_what_is_not_text_is_said_to_be_so(self, empty_directory: Path) -> None:
        (empty_directory / "binary.toml").write_bytes(b"a = '\xff'")

        with pytest.raises(ConfigError, match=r"binary\.toml: not UTF-8 text"):
            load(Path("binary.toml"), environ={})

    def test_a_file_that_is_not_there_is_named(self) -> None:
        with pytest.raises(
            ConfigError, match=r"absent\.toml: cannot read the configuration: No such file or directory"
        ):
            load(Path("absent.toml"), environ={})

    def test_an_unknown_variable_is_shown_by_its_name(self) -> None:
        assert problems("", {"GATEWAY_LOG__LEVL": "info"}) == [
            'environment GATEWAY_LOG__LEVL: unknown key "log.levl"; did you mean "level"?'
        ]

    @pytest.mark.parametrize(
        ("flag", "fault"),
        [
            ("log.level", "--set log.level: expected KEY=VALUE"),
            ("listeners.7.bind=x", "--set listeners.7.bind: there is no listeners.7 to set bind in"),
            ("data_dir.x=1", "--set data_dir.x: data_dir: expected a path, as a string, got a table"),
        ],
    )
    def test_a_flag_that_fits_nowhere_is_shown(self, flag: str, fault: str) -> None:
        assert problems("", flags=(flag,)) == [fault]

    def test_a_password_is_not_in_the_message(self) -> None:
        found = problems("[database]\nurl = 'mysql://gw:hunter2@h/x'\n[layer]\nurl = 'amqp://:hunter2@h'")

        assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[4] / "config").glob("*.toml")), ids=lambda file: file.name
)
def test_a_shipped_file_pins_nothing_that_follows_the_data_directory(file: Path, tmp_path: Path) -> None:
    config = load(file, environ={}, flags=[f"data_dir={tmp_path}"]).config

    for path in (config.sqlite_file(), config.secret_key_file):
        assert path is None or path.is_relative_to(tmp_path)
