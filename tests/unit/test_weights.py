"""Weights on disk: which files a preset needs, where they are looked for, what is said of those that are not there."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core import fsops
from core.generate.hashes import Hashes, fingerprint, named_hash
from core.generate.presets import Preset, read_presets
from core.generate.studio import GenerationSettings
from core.generate.weights import MissingWeights, hub_cache, installed, locate, look
from core.settings import load_settings
from daemons.cli import load
from daemons.cli.app import app

load("weights")
ROOT = Path(__file__).parents[2]
RULES = GenerationSettings()
COMMIT = "c0ffee" + "0" * 34
INDEX = {
    "_class_name": "WanImageToVideoPipeline",
    "boundary_ratio": 0.9,
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def tensors(**shapes: tuple[int, ...]) -> bytes:
    """A safetensors file of float32 zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name.replace("__", ".")] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def pipeline() -> dict[str, bytes]:
    """The files of a repository: a pipeline whose transformer is in two shards, and what nobody should touch."""
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"metadata": {"total_size": 4 * 50}, "weight_map": {"a": shards[0], "b": shards[1]}}
    return {
        "model_index.json": json.dumps(INDEX).encode(),
        "scheduler/scheduler_config.json": b'{"of": "scheduler"}',
        "text_encoder/config.json": b'{"of": "text_encoder"}',
        "text_encoder/model.safetensors": tensors(shared__weight=(7, 4)),
        "text_encoder/pytorch_model.bin": b"a pickle",
        "tokenizer/tokenizer_config.json": b'{"of": "tokenizer"}',
        "tokenizer/spiece.model": b"words",
        "transformer/config.json": b'{"of": "transformer"}',
        "transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(index).encode(),
        f"transformer/{shards[0]}": tensors(a=(5, 5)),
        f"transformer/{shards[1]}": tensors(b=(5, 5)),
        "transformer/modeling.py": b"raise SystemExit",
        "vae/config.json": b'{"of": "vae"}',
        "vae/diffusion_pytorch_model.safetensors": tensors(c=(3, 3)),
        "README.md": b"# a model",
        "single.safetensors": tensors(d=(2, 2)),
    }


UNTOUCHED = {"text_encoder/pytorch_model.bin", "transformer/modeling.py", "README.md", "single.safetensors"}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def preset(more: str = 'weights = { hub = "maker/model" }', family: str = "wan") -> Preset:
    return read_presets(f'[mine]\nfamily = "{family}"\n{more}\n', "presets.toml")["mine"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def cached(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """The hub's cache as its client leaves it: blobs by hash, a snapshot of links, and a reference."""
    repository = tmp_path / "hf" / "hub" / "models--maker--model"
    for name, content in files.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        put(blob.parent, {blob.name: content})
        link = repository / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    put(repository, {"refs/main": COMMIT.encode()})
    return repository / "snapshots" / COMMIT


def test_a_folder_that_was_copied_by_hand(tmp_path: Path) -> None:
    folder = put(tmp_path / "weights" / "maker" / "model", pipeline())
    found = locate(preset(), RULES, tmp_path)
    assert (found.weights, found.components, found.loras, found.variant) == (folder, {}, (), None)
    (whole,) = found.found
    assert set(whole.files) == set(pipeline()) - UNTOUCHED
    assert found.origins()["weights"].startswith("maker/model#")
    assert {path.name for path in found.files_of("tokenizer")} == {"tokenizer_config.json", "spiece.model"}


def test_the_hubs_cache_says_which_commit_it_is(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, pipeline())
    found = locate(preset(), RULES, tmp_path)
    assert (found.weights, found.origins()) == (snapshot, {"weights": f"maker/model@{COMMIT}"})
    assert locate(preset(f'weights = {{ hub = "maker/model", revision = "{COMMIT}" }}'), RULES, tmp_path) is not None
    with pytest.raises(MissingWeights):
        locate(preset('weights = { hub = "maker/model", revision = "v2" }'), RULES, tmp_path)
    vae = snapshot / "vae" / "diffusion_pytorch_model.safetensors"
    assert named_hash(vae) == hashlib.sha256(vae.read_bytes()).hexdigest()
    vae.resolve().unlink()  # a link whose blob has gone is no file
    with pytest.raises(MissingWeights, match=r"1 file is missing: .*vae/diffusion_pytorch_model\.safetensors"):
        locate(preset(), RULES, tmp_path)


@pytest.mark.parametrize(
    ("gone", "said", "size"),
    [
        ("model_index.json", "model_index.json", None),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json", None),
        ("tokenizer/spiece.model", "tokenizer/tokenizer.json", None),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors", None),
        ("transformer/config.json", "transformer/config.json", None),
        ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors", None),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, gone: str, said: str, size: int | None) -> None:
    folder = put(tmp_path / "weights" / "maker" / "model", pipeline())
    (folder / gone).unlink()
    (found,) = look(preset(), RULES, tmp_path)
    assert (found.missing, found.missing_bytes) == ((said,), size)
    with pytest.raises(MissingWeights) as refused:
        locate(preset(), RULES, tmp_path)
    finding = refused.value.finding
    assert (finding.code, finding.value) == ("weights_missing", "mine")
    assert str(folder / said) in finding.message
    assert "dropreel weights mine --fetch" in str(finding.remedy)


def test_a_missing_shard_and_how_much_it_is(tmp_path: Path) -> None:
    folder = put(tmp_path / "weights" / "maker" / "model", pipeline())
    first = folder / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    (folder / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    (found,) = look(preset(), RULES, tmp_path)
    assert found.missing == ("transformer/diffusion_pytorch_model-00002-of-00002.safetensors",)
    assert found.missing_bytes == max(0, 200 - first.stat().st_size)


def test_a_component_from_elsewhere_needs_only_its_configuration_here(tmp_path: Path) -> None:
    files = {name: data for name, data in pipeline().items() if not name.startswith("transformer/d")}
    put(tmp_path / "weights" / "maker" / "model", files)
    single = put(tmp_path / "elsewhere", {"single.safetensors": tensors(d=(2, 2))})
    mine = preset(
        'weights = { hub = "maker/model" }\n'
        f'components.transformer = {{ folder = "{single}", file = "single.safetensors", config = "transformer" }}\n'
        f'loras = [{{ source = {{ folder = "{single}", files = ["single.safetensors"] }} }}]'
    )
    found = locate(mine, RULES, tmp_path)
    assert found.components == {"transformer": single / "single.safetensors"}
    assert found.loras == (single / "single.safetensors",)
    (tmp_path / "weights" / "maker" / "model" / "transformer" / "config.json").unlink()
    with pytest.raises(MissingWeights, match=r"transformer/config\.json"):
        locate(mine, RULES, tmp_path)


@pytest.mark.parametrize("where", ["", "latent_upsampler/"])
def test_an_upsampler_alone_or_in_a_pipelines_folder(tmp_path: Path, where: str) -> None:
    folder = put(
        tmp_path / "up", {f"{where}config.json": b"{}", f"{where}diffusion_pytorch_model.safetensors": tensors(a=(1,))}
    )
    put(tmp_path / "weights" / "maker" / "model", pipeline())
    mine = preset(
        'weights = { hub = "maker/model" }\n'
        f'vae_dtype = "bf16"\nupsampler = {{ source = {{ folder = "{folder}" }}, timesteps = [1, 0] }}',
        "ltx",
    )
    assert locate(mine, RULES, tmp_path).upsampler == folder / where.rstrip("/")


def test_the_word_of_a_variant(tmp_path: Path) -> None:
    files = {name.replace(".safetensors", ".fp16.safetensors") if "index" not in name else "x.txt": data
             for name, data in pipeline().items() if "transformer/" not in name}  # fmt: skip
    index = {name: made for name, made in INDEX.items() if name != "transformer"}
    put(tmp_path / "weights" / "maker" / "model", files | {"model_index.json": json.dumps(index).encode()})
    mine = preset('weights = { hub = "maker/model", files = ["*/*.json", "*/*.model", "*/*.fp16.safetensors"] }')
    found = look(mine, RULES, tmp_path)[0]
    assert found.missing == ()
    assert locate(mine, RULES, tmp_path).variant == "fp16"


def test_the_caches_place_is_the_clients_own(tmp_path: Path) -> None:
    for given in ({}, {"HF_HOME": "/a"}, {"HF_HUB_CACHE": "/b"}, {"XDG_CACHE_HOME": "/c"}):
        environment = {"HOME": os.environ["HOME"], **given}
        code = "import huggingface_hub.constants as c; print(c.HF_HUB_CACHE)"
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert str(hub_cache(environment)) == said.stdout.strip(), given


def test_a_hash_is_taken_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    fsops.confine()
    path = put(tmp_path, {"a.safetensors": b"one" * 1000}) / "a.safetensors"
    read: list[int] = []
    hashes = Hashes(tmp_path)
    assert hashes.known(path) is None
    sha = hashes.take(path, read.append)
    assert (sha, sum(read)) == (hashlib.sha256(b"one" * 1000).hexdigest(), 3000)
    path.chmod(0)  # whoever reads it again would fail, but for root; the memory answers
    assert Hashes(tmp_path).known(path) == sha
    path.chmod(0o600)
    path.write_bytes(b"two" * 1000)
    os.utime(path, ns=(0, 1))
    assert Hashes(tmp_path).known(path) is None
    assert Hashes(tmp_path).take(path, read.append) == hashlib.sha256(b"two" * 1000).hexdigest()


def test_a_fingerprint_tells_other_weights_of_the_same_shape(tmp_path: Path) -> None:
    path = put(tmp_path, {"a": bytes(5_000_000)}) / "a"
    before = fingerprint([path])
    assert before == fingerprint([path])
    path.write_bytes(bytes(4_999_999) + b"\1")
    assert fingerprint([path]) != before


@pytest.mark.parametrize("file", ["scheduler/scheduler_config.json", "transformer/config.json", "model_index.json"])
def test_weights_that_are_configured_otherwise_are_others(tmp_path: Path, file: str) -> None:
    folder = put(tmp_path / "weights" / "maker" / "model", pipeline())
    before = locate(preset(), RULES, tmp_path).origins()
    assert locate(preset(), RULES, tmp_path).origins() == before
    (folder / file).write_bytes(pipeline()[file].replace(b"}", b', "shift": 9.0}', 1))
    assert locate(preset(), RULES, tmp_path).origins() != before


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return put(tmp_path / "home", {
        "dropreel.toml": b'[generation]\nmodel = "mine"\n',
        "presets.toml": b'[mine]\nfamily = "wan"\nweights = { hub = "maker/model" }\n',
    })  # fmt: skip


def test_what_a_home_has(home: Path) -> None:
    settings, folders = load_settings(home)
    assert installed(settings, folders.root) == []
    put(home / "weights" / "maker" / "model", pipeline())
    assert [each.name for each in installed(settings, folders.root)] == ["mine"]


class Hub(http.server.BaseHTTPRequestHandler):
    """The little of the hub's protocol that its client needs to fetch the files of one repository."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, files = self.path.partition("?")[0], pipeline()
        headers = {"Content-Type": "application/json"}
        if path == "/api/models/maker/model/revision/main":
            body = json.dumps({"_id": "1", "id": "maker/model", "sha": COMMIT, "siblings": []}).encode()
        elif path == f"/api/models/maker/model/tree/{COMMIT}":
            body = json.dumps([{"type": "file", "path": name, "size": len(data), "oid": _etag(data)[:40]}
                               for name, data in files.items()]).encode()  # fmt: skip
        elif (name := path.removeprefix("/maker/model/resolve/").partition("/")[2]) in files:
            body = files[name]
            headers = {"ETag": f'"{_etag(body)}"', "X-Repo-Commit": COMMIT}
            if self.command == "GET":
                self.asked.append(name)
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHub", (Hub,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def command(home: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                                "PYTHONWARNINGS": "ignore", "no_proxy": "127.0.0.1"}  # fmt: skip
    run = [sys.executable, "-m", "daemons.cli", "weights", "--home", str(home), *arguments]
    return subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_is_missing_is_fetched_and_nothing_else(
    home: Path, tmp_path: Path, hub: tuple[str, list[str]], by_hand: bool
) -> None:
    endpoint, asked = hub
    place = home / "weights" / "maker" / "model"
    if by_hand:  # a folder that was begun is finished where it is
        place.mkdir(parents=True)
    said = command(home, endpoint, "mine", "--fetch", "--hash", "--json")
    assert said.returncode == 0, said.stderr
    mine = json.loads(said.stdout)["mine"]
    assert mine["whole"]
    (need,) = mine["needs"]
    assert set(need["files"]) == set(pipeline()) - UNTOUCHED
    assert set(asked) == set(need["files"])
    assert (need["commit"], Path(need["folder"])) == (
        (None, place) if by_hand else (COMMIT, tmp_path / "hf/hub/models--maker--model/snapshots" / COMMIT)
    )
    for name, file in need["files"].items():
        assert file == {"bytes": len(pipeline()[name]), "sha256": _etag(pipeline()[name])}


def test_without_a_network_it_says_which_file_goes_where(home: Path) -> None:
    said = command(home, "http://127.0.0.1:9", "--fetch")
    place = home / "weights" / "maker" / "model"
    assert said.returncode == 1
    assert f"missing  {place / 'model_index.json'}" in said.stdout
    assert "`hf download maker/model --local-dir maker/model` on a machine that has one" in said.stdout
    assert f"what it makes goes to {place}." in said.stdout
    assert "maker/model could not be fetched" in said.stderr


def test_what_else_a_licence_asks_for_is_shown(home: Path) -> None:
    terms = '{ name = "Terms", url = "https://terms.example", note = "Free below a revenue of 7 dollars." }'
    with (home / "presets.toml").open("a") as file:
        file.write(f"licence = {terms}\n")
    said = CliRunner().invoke(app, ["weights", "mine", "--home", str(home)])
    assert "mine  Terms, https://terms.example\n  Free below a revenue of 7 dollars.\n" in said.stdout


def test_the_interpolators_weights_are_shown_too(home: Path) -> None:
    def told(*options: str) -> str:
        return CliRunner().invoke(app, ["weights", "--home", str(home), *options]).stdout

    rife, film = home / "weights" / "flownet.pkl", home / "weights" / "film_net_fp16.pt"
    absent = {"bytes": None, "sha256": None}
    assert f"  rife  {rife}  not here" in told()
    assert json.loads(told("--json"))["[interpolate]"] == {
        "rife": {"file": str(rife), **absent},
        "film": {"file": str(film), **absent},
    }
    data = bytes(2_500_000)
    put(home / "weights", {rife.name: data})
    said = told("--hash")
    assert f"  rife  {rife}  2.5 MB\n    {_etag(data)}  flownet.pkl\n" in said
    assert f"  film  {film}  not here" in said
    here = json.loads(told("--json"))["[interpolate]"]["rife"]
    assert here == {"file": str(rife), "bytes": len(data), "sha256": _etag(data)}


def test_a_file_that_is_not_what_the_cache_says(home: Path, tmp_path: Path) -> None:
    def weights(*options: str) -> Any:
        return CliRunner().invoke(app, ["weights", "mine", "--home", str(home), *options])

    snapshot = cached(tmp_path, pipeline())
    assert weights("--hash").exit_code == 0
    vae = (snapshot / "vae" / "diffusion_pytorch_model.safetensors").resolve()
    vae.write_bytes(vae.read_bytes()[:-1] + b"\1")
    said = weights("--hash")
    assert (said.exit_code, "is damaged" in said.stderr) == (1, True)
    shutil.rmtree(snapshot)
    assert weights().exit_code == 1
