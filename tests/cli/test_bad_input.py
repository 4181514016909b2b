"""Whatever is given, the command line answers in one sentence and exit code 2, and changes nothing.

What a user is likely to get wrong is in `tests/acceptance/test_bad_input.py`; here is what only happens on a bad day.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.errors import ArchitectureError, InputError, StorageError

Run = Callable[..., Any]


@pytest.mark.parametrize(
    "content", ["no JSON", "[1]", "7", '{"embed_dim": 1, "vision_cfg": 1, "text_cfg": {}}', '{"embed_dim": 1}']
)
def test_model_config_that_is_none_is_refused(content: str, signed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(InputError, match=r"mine\.json is no config of open_clip"):
        manifest.create(signed, "mine", model_config=tmp_path / "mine.json")


def test_model_config_that_is_no_json_is_one_sentence(signed: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("no JSON")
    answer = run("create", signed.name, "--model", "mine", "--model-config", "mine.json")
    assert "mine.json is no config of open_clip" in answer.complaint


@pytest.mark.parametrize(
    "arguments",
    [
        {"force_image_size": 0},
        {"force_image_size": -8},
        {"force_context_length": 0},
        {"vision_cfg": 1},
        {"nonsense": 1},
    ],
)
def test_arguments_that_build_no_model_are_refused(
    arguments: dict[str, Any], digits: Any, signed: Path, tmp_path: Path
) -> None:
    before = listing(tmp_path)
    with pytest.raises(ArchitectureError, match=f"'digits-clip' cannot be built with {next(iter(arguments))}="):
        manifest.create(signed, digits.MODEL, arguments=arguments)
    assert listing(tmp_path) == before


def test_image_size_of_no_pixels_is_one_sentence(digits: Any, signed: Path, run: Run) -> None:
    config = digits.HERE / "digits-clip.json"
    answer = run("create", signed.name, "--model", digits.MODEL, "--model-config", config, "--force-image-size", 0)
    assert "cannot be built" in answer.complaint


def test_precision_that_open_clip_takes_for_float32_is_refused_by_name(digits: Any, signed: Path) -> None:
    with pytest.raises(ArchitectureError, match="no precision 'float16', expected one of fp32, fp16"):
        manifest.create(signed, digits.MODEL, arguments={"precision": "float16"})


def test_model_of_a_directory_that_is_absent_is_refused(signed: Path) -> None:
    with pytest.raises(ArchitectureError, match=r"cannot be built .*open_clip_config"):
        manifest.create(signed, "local-dir:/absent")


@pytest.mark.parametrize("partial", [["text_towel"], "text_tower"])
def test_component_declared_partial_that_the_model_lacks_is_refused(partial: Any, digits: Any, signed: Path) -> None:
    with pytest.raises(InputError, match=r"There is no component .* expected among .*text_tower"):
        manifest.create(signed, digits.MODEL, partial=partial, golden=False)


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_key_pair_without_a_name_is_refused(name: str, run: Run) -> None:
    assert "name" in run("keygen", name).complaint


def test_name_too_long_for_its_sidecars_is_one_sentence(signed: Path, run: Run, tmp_path: Path) -> None:
    name = "x" * 250 + ".pt"
    shutil.copy(signed, tmp_path / name)
    assert "too long" in run("verify", name).complaint
    assert "cannot be read" in run("verify", "y" * 300).complaint


def test_passphrase_that_is_no_text_opens_what_it_locked(run: Run, signed: Path) -> None:
    odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
    assert run("keygen", "locked", "--encrypt", MANIFEST_PASSPHRASE=odd).code == 0
    assert run("sign", signed.name, "--key", "locked.key", MANIFEST_PASSPHRASE=odd).code == 0


@pytest.mark.parametrize("arguments", [("verify",), ("card", "a", "b"), ("verify", "a", "--format", "xml"), ("x",)])
def test_wrong_usage_ends_with_two(arguments: tuple[str, ...], run: Run) -> None:
    answer = run(*arguments)
    assert answer.code == 2
    assert "Usage: " in answer.err


@pytest.mark.parametrize("command", ["verify", "show"])
def test_output_that_has_no_room_is_one_sentence(command: str, signed: Path, run_process: Run) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    for form in ("text", "json"):
        options = ("--fast",) if command == "verify" else ()
        with full.open("w") as place:
            answer = run_process(command, signed.name, *options, "--format", form, stdout=place)
        assert "The output cannot be read or written (No space left on device)" in answer.complaint


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_save_onto_a_full_disk_leaves_the_old_checkpoint_whole(
    suffix: str, saved: Path, digits_model: Any, mounted: Callable[..., Path]
) -> None:
    place = mounted("size=20m")
    path = place / f"ckpt.{suffix}"
    for file in saved.glob(f"ckpt.{suffix}*"):
        shutil.copy(file, place / file.name)
    before = listing(place)
    with pytest.raises(StorageError, match=r"The disk of .* is full; free some space or save elsewhere; nothing was"):
        manifest.save(digits_model, path, golden=False)
    assert listing(place) == before
    assert manifest.verify(path, key=saved / "release.pub").exit_code == 0


def test_create_onto_a_disk_without_room_for_the_manifest_leaves_the_old_one(
    digits: Any, saved: Path, mounted: Callable[..., Path]
) -> None:
    place = mounted("size=14m")
    for file in saved.glob("ckpt.pt*"):
        shutil.copy(file, place / file.name)
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    before = listing(place)
    with pytest.raises(StorageError, match="is full"):
        manifest.create(place / "ckpt.pt", digits.MODEL, golden=False)
    assert listing(place) == before
    assert manifest.verify(place / "ckpt.pt", key=saved / "release.pub", fast=True).exit_code == 0


def test_save_onto_a_read_only_file_system_says_so(
    saved: Path, digits_model: Any, mounted: Callable[..., Path]
) -> None:
    place = mounted("ro", source=saved)
    with pytest.raises(StorageError, match="read-only file system; save elsewhere; nothing was changed"):
        manifest.save(digits_model, place / "ckpt.pt", golden=False)
    assert manifest.verify(place / "ckpt.pt", key=place / "release.pub").exit_code == 0


def test_read_only_place_is_one_sentence_for_every_command(saved: Path, run: Run, mounted: Callable[..., Path]) -> None:
    place = mounted("ro", source=saved)
    assert "read-only" in run("sign", place / "ckpt.pt", "--key", place / "release.key").complaint
    assert "cannot be written" in run("keygen", place / "mine").complaint
    assert "read-only" in run("show", place / "ckpt.pt", "--output", place / "page").complaint


def test_interrupted_save_in_a_place_now_read_only_is_read_all_the_same(
    saved: Path, tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    """Nothing can be renamed there, and what the pending manifest says holds."""
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    for ending in ("json", "sig"):
        (other / f"ckpt.pt.manifest.{ending}").rename(other / f"ckpt.pt.manifest.{ending}.pending")
    place = mounted("ro", source=other)
    assert manifest.verify(place / "ckpt.pt", key=saved / "release.pub", fast=True).exit_code == 0


def test_manifest_that_is_a_directory_is_one_sentence(signed: Path, run: Run) -> None:
    sidecar = signed.with_name("ckpt.pt.manifest.json")
    sidecar.unlink()
    sidecar.mkdir()
    assert "ckpt.pt.manifest.json cannot be read" in run("verify", signed.name).complaint


def test_manifest_of_much_nesting_is_one_sentence(signed: Path, run: Run) -> None:
    signed.with_name("ckpt.pt.manifest.json").write_text("[" * 100_000)
    assert "nests deeper" in run("verify", signed.name).complaint


def test_manifest_of_a_number_beyond_reading_is_one_sentence(signed: Path, run: Run) -> None:
    sidecar = signed.with_name("ckpt.pt.manifest.json")
    content = json.loads(sidecar.read_bytes())
    sidecar.write_text(json.dumps(content).replace(f'"size": {signed.stat().st_size}', f'"size": {"9" * 5000}'))
    assert "ckpt.pt.manifest.json is not JSON" in run("verify", signed.name).complaint


def listing(place: Path) -> dict[str, int]:
    """What lies in a directory: names and times of change."""
    return {file.name: file.stat().st_mtime_ns for file in place.iterdir()}


@pytest.mark.usefixtures("signed")
@pytest.mark.parametrize("command", ["verify", "audit", "show", "sign --key release.key"])
def test_file_that_is_not_there_is_told_with_one_like_it(command: str, run: Run) -> None:
    words = command.split()
    assert run(*words, "ckp.pt").complaint.endswith("There is no file ckp.pt; did you mean ckpt.pt?")
    assert run(*words, "nothing").complaint.endswith("There is no file nothing; check the path.")


@pytest.mark.usefixtures("signed")
@pytest.mark.parametrize("command", ["create --model test_vit", "sign --key release.key", "convert out.safetensors"])
def test_address_is_told_from_a_file_that_is_not_there(command: str, run: Run) -> None:
    name, *options = command.split()
    said = run(name, "s3://bucket/a.pt", *options).complaint
    assert said.endswith("s3://bucket/a.pt is an address, and files are read here; download it first.")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://acme/clip", "acme/clip"),
        ("hf://acme/clip@v1/model.safetensors", "acme/clip@v1 model.safetensors"),
        ("https://huggingface.co/acme/clip/", "acme/clip"),
        ("https://huggingface.co/acme/clip/resolve/main/a/b.pt?download=true", "acme/clip@main a/b.pt"),
        ("https://hf.co/acme/clip/blob/main/with space.pt", "acme/clip@main 'with space.pt'"),
    ],
)
def test_address_of_a_repository_is_told_with_the_command_that_pulls(address: str, words: str, run: Run) -> None:
    for command in ("bom", "sign --key release.key", "create --model ViT-B-32"):
        assert f" download it by `manifest pull {words}`." in run(*command.split(), address).complaint


@pytest.mark.parametrize(
    "address", ["hf://datasets/acme/clip/a.pt", "https://acme.example/acme/clip/a.pt", "hf://acme"]
)
def test_address_elsewhere_is_told_without_that_command(address: str, run: Run) -> None:
    assert " download it first." in run("create", address, "--model", "ViT-B-32").complaint


def test_model_of_another_library_is_told(signed: Path, run: Run) -> None:
    said = run("create", signed.name, "--model", "test_vit").complaint
    assert "open_clip has no model 'test_vit'; timm has one of this name: `--family timm`" in said
    assert "did you mean" in run("create", signed.name, "--model", "ViT-B-31").complaint


def test_command_that_is_mistyped_is_told_with_one_like_it(run: Run) -> None:
    said = run("verfy", "a.pt")
    assert said.code == 2
    assert "verify" in said.err
