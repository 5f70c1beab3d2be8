"""SCRAM-SHA-256, the server's side, with the exchange of RFC 7677 and what a client must not do."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exceptions import Reject
from gateway.mqtt.scram import ScramCredentials, ScramServer, saslprep

# RFC 7677 section 3
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
NONCE = f"rOprNGfwEbeRWgbNEkqO{SERVER_NONCE}"
CHALLENGE = f"r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()
PROOF = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
FINAL = f"c=biws,r={NONCE},p={PROOF}".encode()
VERIFIER = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


async def find(name: str) -> ScramCredentials | None:
    return ScramCredentials.of("pencil", salt=SALT, iterations=4096) if name == "user" else None


def server() -> ScramServer:
    return ScramServer(find, nonce=SERVER_NONCE, iterations=4096)


class TestExchange:
    async def test_the_exchange_of_the_rfc_ends_as_there(self) -> None:
        subject = server()

        assert await subject.step(FIRST) == CHALLENGE
        assert not subject.done
        assert await subject.step(FINAL) == VERIFIER
        assert (subject.done, subject.identity) == (True, "user")

    async def test_a_wrong_proof_is_refused(self) -> None:
        subject = server()
        await subject.step(FIRST)

        with pytest.raises(Reject) as refused:
            await subject.step(FINAL.replace(b"dHzb", b"dHzc"))
        assert refused.value.reason_code == 0x87
        assert not subject.done

    async def test_a_client_has_one_attempt(self) -> None:
        subject = server()
        await subject.step(FIRST)
        with pytest.raises(Reject):
            await subject.step(b"c=biws")

        with pytest.raises(Reject):
            await subject.step(FINAL)

    async def test_nobody_is_answered_as_somebody_is(self) -> None:
        unknown = FIRST.replace(b"n=user", b"n=nobody")
        subject = server()

        challenge = await subject.step(unknown)

        assert challenge.startswith(f"r={NONCE},s=".encode())
        assert challenge.endswith(b",i=4096")
        assert await server().step(unknown) == challenge
        with pytest.raises(Reject):
            await subject.step(FINAL)

    @pytest.mark.parametrize(
        "first",
        [
            None,
            b"",
            b"\xff",
            b"p=tls-unique,,n=user,r=abc",
            b"n,a=admin,n=user,r=abc",
            b"n,,m=ext,n=user,r=abc",
            b"n,,n=,r=abc",
            b"n,,n=user,r=",
            b"n,,n=us=er,r=abc",
            b"n,,n=user",
            "n,,n=us\u0007er,r=abc".encode(),
        ],
    )
    async def test_first_messages_that_are_none(self, first: bytes | None) -> None:
        with pytest.raises(Reject):
            await server().step(first)

    @pytest.mark.parametrize(
        "final",
        [
            b"",
            FINAL.replace(b"biws", b"eSws"),
            FINAL.replace(b"biws", b"!"),
            FINAL.replace(b"NlF", b"NlG"),
            FINAL[:-4],
            f"c=biws,r={NONCE},p=AAAA".encode(),
            f"c=biws,r={NONCE}".encode(),
        ],
    )
    async def test_last_messages_that_are_none(self, final: bytes) -> None:
        subject = server()
        await subject.step(FIRST)

        with pytest.raises(Reject):
            await subject.step(final)

    async def test_commas_and_equals_signs_of_names_are_escaped(self) -> None:
        subject = server()

        await subject.step(b"y,,n=a=2Cb=3Dc,r=abc")

        assert subject.identity == "a,b=c"

    @given(st.binary(max_size=80), st.binary(max_size=80))
    async def test_whatever_comes_is_refused_and_no_other_error(self, first: bytes, final: bytes) -> None:
        with pytest.raises(Reject):
            await server().step(first)
        subject = server()
        await subject.step(FIRST)
        with pytest.raises(Reject):
            await subject.step(final)


class TestCredentials:
    def test_credentials_are_stored_as_text(self) -> None:
        credentials = ScramCredentials.of("pencil")

        assert ScramCredentials.parse(str(credentials)) == credentials
        assert str(credentials).startswith("SCRAM-SHA-256$15000:")

    def test_do_not_show_in_a_traceback(self) -> None:
        assert repr(ScramCredentials.of("pencil", iterations=4096)) == "ScramCredentials(iterations=4096)"

    @pytest.mark.parametrize("text", ["", "SCRAM-SHA-1$4096:YQ==$YQ==:YQ==", "SCRAM-SHA-256$4096:!$YQ==:YQ=="])
    def test_text_that_is_no_credentials_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            ScramCredentials.parse(text)


class TestSaslprep:
    """The examples of RFC 4013 section 3."""

    @pytest.mark.parametrize(
        ("text", "prepared"),
        [
            ("I\u00adX", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u00aa", "a"),
            ("\u2168", "IX"),
            ("a\u00a0b", "a b"),
        ],
    )
    def test_maps(self, text: str, prepared: str) -> None:
        assert saslprep(text) == prepared

    @pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "", "\u00ad", "\ue000", "a\u0627b"])
    def test_refuses(self, text: str) -> None:
        with pytest.raises(ValueError, match="it "):
            saslprep(text)
