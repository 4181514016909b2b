"""The bundle: its exact form, what reading refuses and in which words, and that no change of a byte goes unseen."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manifest.errors import InputError, SignatureError
from manifest.signing import (
    PrivateKey,
    PublicKey,
    Statement,
    generate_keys,
    load_private_key,
    read_bundle,
    sign_resources,
    verify_bundle,
)
from manifest.signing.file_names import first_twins

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
RESOURCES = {"ckpt.pt.manifest.json": B, "ckpt.pt": A}

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return _key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> PublicKey:
    return _key(tmp_path_factory.mktemp("keys") / "stranger").public


@pytest.fixture(scope="module")
def bundle(key: PrivateKey) -> bytes:
    return sign_resources("model", RESOURCES, key)


def _key(stem: Path, curve: str = "p256") -> PrivateKey:
    return load_private_key(generate_keys(stem, curve=curve)[0])


def _payload(data: bytes) -> dict[str, Any]:
    return json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]))


def _signed_anew(key: PrivateKey, payload: bytes) -> bytes:
    """A bundle that a signer's faulty or hostile tool made: genuinely signed, whatever the payload."""
    pae = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    return _compact(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": base64.b64encode(key.sign(pae)).decode(), "keyid": ""}],
            },
        }
    )


def _compact(bundle: Any) -> bytes:
    return json.dumps(bundle, separators=(",", ":")).encode()


def _root(resources: list[dict[str, str]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(item["digest"]) for item in resources)).hexdigest()


def _with_names(*names: str) -> Change:
    """A change of the payload to these file names, with the root digest that fits them."""

    def change(payload: dict[str, Any]) -> None:
        resources = [{"algorithm": "sha256", "name": name, "digest": A} for name in names]
        payload["predicate"]["resources"] = resources
        payload["subject"][0]["digest"]["sha256"] = _root(resources)

    return change


def test_bundle_when_signed_then_has_the_form_of_the_specification(key: PrivateKey, bundle: bytes) -> None:
    found = json.loads(bundle)
    signature = found["dsseEnvelope"]["signatures"][0].pop("sig")
    payload = base64.b64decode(found["dsseEnvelope"].pop("payload"))

    assert found == {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
        "dsseEnvelope": {"payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": ""}]},
    }
    assert json.loads(payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": "model",
                "digest": {"sha256": hashlib.sha256(bytes.fromhex(A) + bytes.fromhex(B)).hexdigest()},
            }
        ],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "resources": [
                {"algorithm": "sha256", "name": "ckpt.pt", "digest": A},
                {"algorithm": "sha256", "name": "ckpt.pt.manifest.json", "digest": B},
            ],
            "serialization": {
                "hash_type": "sha256",
                "method": "files",
                "ignore_paths": [],
                "allow_symlinks": False,
            },
        },
    }
    pae = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    assert key.public.verify(base64.b64decode(signature), pae)


def test_resources_when_signed_then_are_sorted_by_code_point(key: PrivateKey) -> None:
    names = ["é", "z", "Y", "a/b", "a.b", "a", "\U0001f600", "\uffee"]

    payload = _payload(sign_resources("model", dict.fromkeys(names, A), key))

    assert [item["name"] for item in payload["predicate"]["resources"]] == sorted(names)


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_bundle_when_its_key_is_among_those_given_then_verifies(
    tmp_path: Path, stranger: PublicKey, curve: str
) -> None:
    key = _key(tmp_path / "release", curve)

    statement = verify_bundle(sign_resources("model", RESOURCES, key), [stranger, key.public])

    assert statement == Statement("model", RESOURCES, key.public.hint)


def test_bundle_when_only_read_then_needs_no_key(key: PrivateKey, bundle: bytes) -> None:
    assert read_bundle(bundle) == Statement("model", RESOURCES, key.public.hint)


def test_digests_when_in_capitals_then_are_signed_and_returned_in_small_letters(key: PrivateKey) -> None:
    data = sign_resources("model", {"ckpt.pt": A.upper()}, key)

    assert read_bundle(data).resources == {"ckpt.pt": A}


def test_bundle_when_signed_by_another_then_says_which_keys(
    key: PrivateKey, stranger: PublicKey, bundle: bytes
) -> None:
    with pytest.raises(SignatureError) as raised:
        verify_bundle(bundle, [stranger])

    assert raised.value.rule == "T003"
    assert str(raised.value) == (
        f"The signature names the key '{key.public.hint}' and holds under none of the keys given ({stranger.hint}); "
        "pass the public key of the signer you trust, or get the signature again from its source."
    )


def test_bundle_when_no_key_is_given_then_is_not_verified(bundle: bytes) -> None:
    with pytest.raises(SignatureError, match="no public key was given to check it; pass the signer's") as raised:
        verify_bundle(bundle, [])

    assert raised.value.rule == "T003"


def test_bundle_when_changed_and_made_consistent_then_says_it_was_changed(key: PrivateKey, bundle: bytes) -> None:
    forged = json.loads(bundle)
    payload = _payload(bundle)
    _with_names("ckpt.pt", "other.pt")(payload)
    forged["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    with pytest.raises(SignatureError, match="was given, and does not hold under it: what it signs was") as raised:
        verify_bundle(_compact(forged), [key.public])

    assert raised.value.rule == "T003"


def test_hint_when_forged_then_is_refused_by_whoever_has_the_key(key: PrivateKey, bundle: bytes) -> None:
    forged = bundle.replace(key.public.hint.encode(), b"0" * 64)

    assert read_bundle(forged).hint == "0" * 64
    with pytest.raises(SignatureError, match=f"it names the key '0{{64}}' and {key.public.hint} signed it") as raised:
        verify_bundle(forged, [key.public])
    assert raised.value.rule == "T005"


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: bundle["verificationMaterial"].pop("tlogEntries"),
        lambda bundle: bundle["verificationMaterial"]["publicKey"].pop("hint"),
        lambda bundle: bundle["verificationMaterial"].pop("publicKey"),
        lambda bundle: bundle["verificationMaterial"].update(timestampVerificationData={}),
        lambda bundle: bundle["verificationMaterial"].update(tlogEntries=[{}]),
        lambda bundle: bundle["dsseEnvelope"].update(dsseEnvelope=bundle["dsseEnvelope"].pop("payloadType")),
        lambda bundle: bundle["dsseEnvelope"]["signatures"][0].pop("keyid"),
        lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(keyid="x"),
        lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(extra="x"),
        lambda bundle: bundle.update(mediaType=bundle.pop("mediaType")),
    ],
)
def test_bundle_when_what_is_not_signed_has_another_form_then_is_refused(
    key: PrivateKey, bundle: bytes, change: Change
) -> None:
    varied = json.loads(bundle)
    change(varied)

    with pytest.raises(SignatureError) as raised:
        verify_bundle(_compact(varied), [key.public])
    assert raised.value.rule == "T005"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: json.dumps(json.loads(data)).encode(),
        lambda data: json.dumps(json.loads(data), indent=2).encode(),
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b"keyid", b"\\u006beyid"),
        lambda data: data.replace(b"/", b"\\/", 1),
    ],
)
def test_bundle_when_spelled_otherwise_then_is_refused(
    key: PrivateKey, bundle: bytes, change: Callable[[bytes], bytes]
) -> None:
    _assert_malformed(change(bundle), key, "one form only")


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload["predicate"].update(future=1),
        lambda payload: payload["predicate"]["resources"][0].update(annotations={"size": 1}),
        lambda payload: payload["subject"][0].update(annotations={}),
        lambda payload: payload["predicate"]["serialization"].pop("ignore_paths"),
        lambda payload: payload["predicate"]["serialization"].update(ignore_paths=["model.sig", ".git", "ckpt"]),
        _with_names("dir/ckpt.pt", "..ckpt", "ckpt..", "a b", "模型.pt"),
    ],
)
def test_payload_when_it_has_tolerated_variations_then_verifies(key: PrivateKey, bundle: bytes, change: Change) -> None:
    payload = _payload(bundle)
    change(payload)

    assert verify_bundle(_signed_anew(key, json.dumps(payload).encode()), [key.public])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda b: b.update(mediaType="application/json"), "`mediaType` of the bundle is 'application/json'"),
        (lambda b: b.pop("mediaType"), "`mediaType` of the bundle is missing"),
        (lambda b: b.update(extra=1), "the bundle has the unknown key `extra`"),
        (lambda b: b.update(verificationMaterial=[]), r"`verificationMaterial` of the bundle is \[\]"),
        (
            lambda b: b["verificationMaterial"]["publicKey"].update(hint=1),
            "`verificationMaterial.publicKey.hint` of the bundle is 1",
        ),
        (lambda b: b.pop("dsseEnvelope"), "`dsseEnvelope` of the bundle is missing"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "`dsseEnvelope.payloadType` of the bundle"),
        (lambda b: b["dsseEnvelope"].update(signatures=[]), "`dsseEnvelope.signatures` of the bundle"),
        (lambda b: b["dsseEnvelope"]["signatures"].append({"sig": ""}), "`dsseEnvelope.signatures` of the bundle"),
        (lambda b: b["dsseEnvelope"].update(payload="e30"), "`dsseEnvelope.payload` is not base64"),
        (lambda b: b["dsseEnvelope"].update(payload="e3 0="), "`dsseEnvelope.payload` is not base64"),
        (lambda b: b["dsseEnvelope"].update(payload="e3_="), "`dsseEnvelope.payload` is not base64"),
        (lambda b: b["dsseEnvelope"].update(payload="é"), "`dsseEnvelope.payload` is not base64"),
        (lambda b: b["dsseEnvelope"].update(payload="e31="), "`dsseEnvelope.payload` is base64 with stray bits"),
        (lambda b: b["dsseEnvelope"].update(payload="/w=="), "the signed payload is not JSON in UTF-8"),
        (lambda b: b["dsseEnvelope"].update(payload=""), "the signed payload is not JSON in UTF-8"),
        (
            lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="!"),
            "`dsseEnvelope.signatures.0.sig` is not base64",
        ),
    ],
)
def test_bundle_when_malformed_then_is_refused_in_words(
    key: PrivateKey, bundle: bytes, change: Change, sentence: str
) -> None:
    broken = json.loads(bundle)
    change(broken)

    _assert_malformed(json.dumps(broken).encode(), key, sentence)


def _serialization(**changes: Any) -> Change:
    return lambda payload: payload["predicate"]["serialization"].update(changes)


def _resource(**changes: Any) -> Change:
    return lambda payload: payload["predicate"]["resources"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p.update(_type="https://in-toto.io/Statement/v0.1"), "`_type` of the signed payload"),
        (lambda p: p.update(predicateType="https://model_signing/Digests/v0.1"), "`predicateType` of the signed"),
        (lambda p: p.update(subject=[]), "`subject` of the signed payload"),
        (lambda p: p["subject"].append(copy.deepcopy(p["subject"][0])), "`subject` of the signed payload"),
        (lambda p: p["subject"][0].pop("digest"), "`subject.0.digest` of the signed payload is missing"),
        (lambda p: p["subject"][0].update(name="a\x1b[2J"), r"the model name 'a\\x1b\[2J' contains a control"),
        (lambda p: p["subject"][0]["digest"].update(sha256="0" * 64), "the subject's digest is 0{64} where the"),
        (lambda p: p["predicate"]["resources"].reverse(), "the subject's digest is .* where the listed files'"),
        (lambda p: p["predicate"].update(resources=[]), "`predicate.resources` of the signed payload"),
        (_serialization(hash_type="blake2b"), "`predicate.serialization.hash_type` of the signed payload"),
        (_serialization(method="shards"), "`predicate.serialization.method` of the signed payload"),
        (_serialization(allow_symlinks="yes"), "allow_symlinks` of the signed payload is .yes."),
        (_serialization(ignore_paths="."), "`predicate.serialization.ignore_paths` of the signed payload"),
        (_serialization(ignore_paths=["."]), "`ignore_paths` has '.', which covers the listed file"),
        (_serialization(ignore_paths=[""]), "`ignore_paths` has '', which covers the listed file"),
        (_serialization(ignore_paths=["/"]), "`ignore_paths` has '/', which covers the listed file"),
        (_serialization(ignore_paths=["x/../.."]), "`ignore_paths` has 'x/../..', which covers the listed file"),
        (_serialization(ignore_paths=["./ckpt.pt/"]), "has './ckpt.pt/', which covers the listed file 'ckpt.pt'"),
        (_resource(algorithm="sha512"), "`predicate.resources.0.algorithm` of the signed payload is 'sha512'"),
        (_resource(digest=A[:-1]), "`predicate.resources.0.digest` of the signed payload"),
        (_resource(digest=A + "\n"), "`predicate.resources.0.digest` of the signed payload"),
        (_resource(digest="g" * 64), "`predicate.resources.0.digest` of the signed payload"),
        (_resource(digest=1), "`predicate.resources.0.digest` of the signed payload is 1"),
        (_with_names("ckpt.pt", "ckpt.pt"), "the file name 'ckpt.pt' is listed twice where once is expected"),
        (_with_names("../release.key"), r"the file name '../release.key' has an empty, `.` or `..` part"),
        (_with_names("a/../../b"), r"the file name .* has an empty, `.` or `..` part"),
        (_with_names("."), r"the file name '.' has an empty, `.` or `..` part"),
        (_with_names("./ckpt.pt"), r"the file name .* has an empty, `.` or `..` part"),
        (_with_names("a//b"), r"the file name .* has an empty, `.` or `..` part"),
        (_with_names(""), r"the file name '' has an empty, `.` or `..` part"),
        (_with_names("/etc/passwd"), "the file name '/etc/passwd' is absolute where one relative"),
        (_with_names("C:/Windows"), "the file name 'C:/Windows' is absolute where one relative"),
        (_with_names("a\\b"), "contains a backslash where `/` is expected"),
        (_with_names("a\0"), "contains a control character where printable text is expected"),
        (_with_names("ckpt.pt", "CKPT.pt"), "the file name 'CKPT.pt' can be taken for 'ckpt.pt', which is listed too"),
        (_with_names("stra\u00dfe", "strasse"), "can be taken for"),
        (_with_names("caf\u00e9", "cafe\u0301"), "can be taken for"),
        (_with_names("\ufb01le", "file"), "can be taken for"),
        (_with_names("c\u043apt.pt", "ckpt.pt"), "can be taken for"),
        (_with_names("ckpt.pt", "\u0441kpt.pt"), r"the file name '\\u0441kpt.pt' can be taken for 'ckpt.pt'"),
        (_with_names("a-b", "a\u2010b"), "can be taken for"),
        (_with_names("ckpt\u200b.pt"), "contains a control character where printable text is expected"),
        (_with_names("tp.\u202etpkc"), "contains a control character where printable text is expected"),
        (_with_names("a\nb"), "contains a control character where printable text is expected"),
    ],
)
def test_payload_when_malformed_then_is_refused_though_genuinely_signed(
    key: PrivateKey, bundle: bytes, change: Change, sentence: str
) -> None:
    payload = _payload(bundle)
    change(payload)

    _assert_malformed(_signed_anew(key, json.dumps(payload).encode()), key, sentence)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the bundle is not JSON in UTF-8"),
        (b"\x80\x02}", "the bundle is not JSON in UTF-8"),
        ('{"mediaType": 1}'.encode("utf-16"), "the bundle is not JSON in UTF-8"),
        (b"\xef\xbb\xbf{}", "the bundle is not JSON"),
        (b"[]", "the bundle is a JSON list, where an object was expected"),
        (b'{"a": 1, "a": 2}', "the bundle has the key 'a' twice"),
        (b'{"a": {"b": 1, "b": 1}}', "the bundle has the key 'b' twice"),
        (b'{"a": NaN}', "the bundle has NaN, which is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "the bundle is not JSON in UTF-8"),
        (b"[" * 500_000, "the bundle nests deeper than any does"),
        (b" " * ((1 << 20) + 1), "it has 1048577 bytes where at most 1048576 are expected"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else "",
)
def test_bytes_when_no_bundle_at_all_then_are_refused_in_words(key: PrivateKey, data: bytes, sentence: str) -> None:
    _assert_malformed(data, key, sentence)


def test_payload_when_it_has_a_key_twice_then_is_refused(key: PrivateKey, bundle: bytes) -> None:
    payload = json.dumps(_payload(bundle)).replace('"name": "ckpt.pt"', '"name": "x", "name": "ckpt.pt"')

    _assert_malformed(_signed_anew(key, payload.encode()), key, "the signed payload has the key 'name' twice")


def _assert_malformed(data: bytes, key: PrivateKey, sentence: str) -> None:
    for judge in (read_bundle, lambda given: verify_bundle(given, [key.public])):
        with pytest.raises(SignatureError, match=sentence) as raised:
            judge(data)
        assert raised.value.rule == "T005"
        assert str(raised.value).endswith("get the signature file again from its source, or sign the checkpoint anew.")
        assert len(str(raised.value)) < 500
        assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({}, "These files cannot be signed: `predicate.resources` .* at least 1 item"),
        ({"../ckpt.pt": A}, "These files cannot be signed: the file name '../ckpt.pt' has an empty, `.` or `..`"),
        ({"ckpt\udc80.pt": A}, "These files cannot be signed: "),
        ({"ckpt.pt": A[1:]}, "The file 'ckpt.pt' comes with the digest .* where the 64 hexadecimal digits"),
        ({"ckpt.pt": f"blake3:{A}"}, "The file 'ckpt.pt' comes with the digest 'blake3:"),
    ],
)
def test_resources_when_no_reader_would_accept_them_then_are_not_signed(
    key: PrivateKey, resources: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        sign_resources("model", resources, key)


def test_resources_when_too_many_for_a_bundle_then_are_not_signed(key: PrivateKey) -> None:
    with pytest.raises(InputError, match="bytes where at most 1048576 are expected"):
        sign_resources("model", {f"shard-{number:05}": A for number in range(8000)}, key)


# Valid file names, as the reader's own rules have them.
_PART = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp"), exclude_characters="/\\:"), min_size=1, max_size=20
).filter(lambda part: part not in (".", ".."))
_NAMES = st.lists(_PART, min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(_NAMES, st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=5))
def test_any_resources_when_signed_then_come_back_the_same(key: PrivateKey, resources: dict[str, str]) -> None:
    assume(first_twins(resources) is None)
    assert verify_bundle(sign_resources("model", resources, key), [key.public]).resources == resources


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_when_read_then_are_refused_by_rule(data: bytes) -> None:
    with pytest.raises(SignatureError) as raised:
        read_bundle(data)
    assert raised.value.rule == "T005"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_value_when_put_anywhere_in_a_payload_then_is_read_or_refused_by_rule(
    key: PrivateKey, bundle: bytes, data: st.DataObject
) -> None:
    payload = _payload(bundle)
    places = list(_places(payload))
    holder, index = data.draw(st.sampled_from(places))
    holder[index] = data.draw(_JSON)

    try:
        read_bundle(_signed_anew(key, json.dumps(payload).encode()))
    except SignatureError as error:
        assert error.rule == "T005"


def _places(value: Any) -> Any:
    """Every (container, index) in a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for index, inner in list(entries):
        yield value, index
        yield from _places(inner)


@settings(max_examples=1000)
@given(position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_byte_when_flipped_then_the_bundle_is_refused(
    key: PrivateKey, bundle: bytes, position: int, flip: int
) -> None:
    damaged = bytearray(bundle)
    damaged[position % len(damaged)] ^= flip

    with pytest.raises(SignatureError):
        verify_bundle(bytes(damaged), [key.public])
