"""What of a command line goes on record: no secret, no path, no name of a person or a machine."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest.capture.scrubbing import MOST_CHARACTERS, MOST_WORDS, own_names, scrubbed_command, scrubbed_text

NAMES = ("alice", "node7.lab.example", "node7")
SECRET = "hunter2hunter2"

SECRET_NAMES = (
    "token", "hf_token", "hub-token", "authToken", "password", "db_passwd", "secret", "client-secret", "api-key",
    "apikey", "API_KEY", "wandbApiKey", "key", "signing-key", "credentials", "auth", "Authorization", "bearer",
    "private_key", "passphrase", "pwd", "cookie",
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["train.py", "--lr", "3e-4", "--amp", "-j8"], ["train.py", "--lr", "3e-4", "--amp", "-j8"]),
        (["/home/alice/train.py", "--data", "~/imagenet"], ["train.py", "--data", "imagenet"]),
        (["--out=/mnt/runs/7/last.pt"], ["--out=last.pt"]),
        (["--model", "ViT-B/32", "laion/CLIP-ViT-B-32"], ["--model", "ViT-B/32", "laion/CLIP-ViT-B-32"]),
        (["configs/vit/b32.yaml", "../data.tar"], ["b32.yaml", "data.tar"]),
        (["/data/train-{000..999}.tar::/data/b.tar"], ["train-{000..999}.tar::b.tar"]),
        (["C:\\Users\\bob\\x.pt", "\\\\server\\share\\y.pt"], ["C:x.pt", "y.pt"]),
        (["/home/bob", "~bob", "/Users/bob/"], ["***", "***", "***"]),
        (["--hub-token", SECRET, "--lr=1"], ["--hub-token", "***", "--lr=1"]),
        ([f"WANDB_API_KEY={SECRET}", "CUDA_VISIBLE_DEVICES=0"], ["WANDB_API_KEY=***", "CUDA_VISIBLE_DEVICES=0"]),
        (["-H", f"Authorization: Bearer {SECRET}"], ["-H", "***"]),
        ([f'{{"lr": 3, "token": "{SECRET}"}}'], ["***"]),
        ([f"https://bob:{SECRET}@h.org:80/a/b.tar?sig={SECRET}"], ["https://h.org:80/b.tar"]),
        (["s3://bucket/run/x.tar", "file:///srv/x.pt"], ["s3://bucket/x.tar", "x.pt"]),
        (["bob@node9:/data/x", "alice@example.org"], ["***", "***"]),
        (["--tag=alice_on_node7", "--host", "node7.lab.example"], ["--tag=***_on_***", "--host", "***"]),
        (["--tokenizer", "bpe", "--author=me"], ["--tokenizer", "bpe", "--author=me"]),
        (["hf_abcdefghijklmnop", "AKIAIOSFODNN7EXAMPLE"], ["***", "***"]),
        (["--commit", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"], ["--commit", "***"]),
        (["vit_base_patch16_clip_224.laion2b_ft_in12k_in1k"], ["vit_base_patch16_clip_224.laion2b_ft_in12k_in1k"]),
        (["ViT-SO400M-14-SigLIP-384", "BertForSequenceClassification"],) * 2,
        (
            ["ClipFineTuneExperiment42.py", "/home/bob/code/RunAblation07cOnA100x8.sh"],
            ["ClipFineTuneExperiment42.py", "RunAblation07cOnA100x8.sh"],
        ),
        ([f"https://h.org/{SECRET}/train_all.py", f"/data/{SECRET}/x.py"], ["https://h.org/train_all.py", "x.py"]),
    ],
)
def test_command_line_is_kept_but_for_what_it_gives_away(words: list[str], shown: list[str]) -> None:
    assert scrubbed_command(words, NAMES) == shown


def test_every_name_of_a_model_that_open_clip_has_is_kept() -> None:
    import open_clip

    words = [*open_clip.list_models(), *(tag for _, tag in open_clip.list_pretrained())]
    assert scrubbed_command(words) == [*words[:MOST_WORDS], *(["…"] if len(words) > MOST_WORDS else [])]


plain = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12)
anything = st.text(max_size=40)


@st.composite
def drawn_secrets(draw: st.DrawFn) -> str:
    """As tokens are made: long, and of letters and digits by chance."""
    chance = random.Random(draw(st.integers(0, 2**64)))
    letters = draw(st.sampled_from([string.ascii_letters + string.digits, "0123456789abcdef", "A23456789BCDEFGH"]))
    return "".join(chance.choices(letters, k=draw(st.integers(40, 80))))


@given(
    name=st.sampled_from(SECRET_NAMES), before=plain, form=st.sampled_from(["{}={}", "--{}={}", "+x.{}={}", "-{}:{}"])
)
def test_what_follows_a_secret_name_never_survives(name: str, before: str, form: str) -> None:
    for words in ([form.format(name, SECRET)], [before, form.format(name, f"{before}/{SECRET} {before}")]):
        assert SECRET not in " ".join(scrubbed_command(words))


@given(name=st.sampled_from(SECRET_NAMES), dashes=st.sampled_from(["-", "--", "--my-", "--x."]), value=anything)
def test_the_word_after_a_secret_option_never_survives(name: str, dashes: str, value: str) -> None:
    assert scrubbed_command([dashes + name, value + SECRET, "rest"])[1:] in (["***", "rest"], ["***", "***"])


@given(drawn_secrets(), anything, anything)
def test_long_random_words_never_survive(secret: str, before: str, after: str) -> None:
    for word in (secret, f"--name={secret}", f"{before} {secret} {after}", f"/x/{secret}", f"https://h/{secret}/x"):
        assert secret not in scrubbed_command([word])[0]
        assert secret not in scrubbed_text(word)


@given(
    parts=st.lists(plain.filter(lambda part: part.strip(".")), min_size=2, max_size=6),
    before=st.sampled_from(["", "--out=", "x=", "a:", "pipe:cat ", "[", "'", "(", "--a b,", "~", "file://"]),
    after=st.sampled_from(["", "/", " more", "'", ",b", "::/x/y"]),
)
def test_no_absolute_path_survives(parts: list[str], before: str, after: str) -> None:
    path = "/" + "/".join(parts)
    for place in (path, path.replace("/", "\\"), "C:" + path.replace("/", "\\")):
        for shown in (scrubbed_command([f"{before}{place}{after}"])[0], scrubbed_text(f"{before}{place}{after}")):
            assert place not in shown
            assert "/" not in shown
            assert "\\" not in shown


@given(
    name=st.sampled_from(NAMES),
    form=st.sampled_from(
        [
            "{}",
            "--user={}",
            "{}/x",
            "/data/{}",
            "/home/{}",
            "{}@h",
            "x_{}",
            "https://{}:1/x",
            "{}:29500",
            "A {} b",
            "--{}",
        ]
    ),
    upper=st.booleans(),
)
def test_no_name_of_this_user_or_machine_survives(name: str, form: str, upper: bool) -> None:
    word = form.format(name.upper() if upper else name)
    for shown in (scrubbed_command([word], NAMES)[0], scrubbed_text(word, NAMES)):
        assert name not in shown.lower()


@given(
    user=st.text(string.ascii_lowercase, min_size=3, max_size=8),
    password=st.text(string.ascii_letters + string.digits + "/?#@:!$&=+.-", max_size=20),
    before=st.sampled_from(["", "--url=", "pipe:curl -s ", "'"]),
)
def test_no_password_in_an_address_survives(user: str, password: str, before: str) -> None:
    address = f"{before}https://{user}:{password}{SECRET}@host.example/dir/file.tar?{SECRET}#{SECRET}"
    assert SECRET not in scrubbed_command([address])[0]
    assert SECRET not in scrubbed_text(address)


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=60), max_size=8))
def test_any_words_are_scrubbed_to_as_many_that_can_be_written(words: list[str]) -> None:
    shown = scrubbed_command(words, NAMES)
    assert len(shown) == len(words)
    assert all(word.encode("utf-8") is not None for word in shown)


def test_very_long_words_and_lines_are_cut() -> None:
    shown = scrubbed_command(["a" * (MOST_CHARACTERS + 1), *["b"] * MOST_WORDS])
    assert shown == ["***", *["b"] * (MOST_WORDS - 1), "…"]


def test_own_names_leave_out_those_that_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    monkeypatch.setattr("socket.gethostname", lambda: "node7.lab.example")
    monkeypatch.setenv("HOME", "/home/alice")
    assert own_names() == ("alice", "node7.lab.example", "node7")


def test_user_without_a_name_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setenv("HOME", "/")
    assert "" not in own_names()
