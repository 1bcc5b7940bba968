"""Write a model in files that other programs load: python -m jobs convert MODEL -o DIR [--int8]."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import typer

from pipeline.audio.windows import decode
from pipeline.config import AudioConfig, load_options
from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    messages,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.convert.agreement import Agreement
from pipeline.convert.networks import Format
from pipeline.convert.package import FACTS_NAME, Converted, convert
from pipeline.errors import ConfigError, RecordingError
from pipeline.manifest.read import read_manifest
from pipeline.models.files import resolve_model
from pipeline.schema import SAMPLE_RATE

_DEMO = Path(__file__).parents[1] / "configs" / "demo" / "audio"
_MOST_CLIPS, _MOST_S = 20, 30.0  # of the audio that files are checked on; SenseVoice's longest clip


def main(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="model directory, URI or hub id"),
    ],
    directory: Annotated[
        Path, typer.Option("--output", "-o", help="new directory; appears complete or not at all")
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="onnx, torchscript or pt2; repeatable; default: onnx"),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="also write model_quant.onnx, with weights of 8 bits")
    ] = False,
    audio: Annotated[
        str,
        typer.Option(help="check on this manifest or directory; default: the demo's clips"),
    ] = "",
    hub: Annotated[Literal["ms", "hf"], typer.Option(help="hub of a hub id")] = "ms",
    overrides: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Write a model in files that other programs load: ONNX, TorchScript, torch.export.

    sherpa-onnx and funasr-onnx load the directory as it is. Every ONNX file is compared with the
    model on real audio; a float32 file that differs is refused, of int8 the share of equal frames,
    tags and texts is told. export.json keeps all this. Exit codes: 0 written, 2 refused.
    """
    with refusing(as_json=as_json):
        files = resolve_model(model, hub=hub, options=load_options(overrides or []))
        waveforms = read_clips(audio or str(_DEMO / "manifest.jsonl"))
        steps = messages()
        done = convert(
            files,
            directory,
            _known(formats or ["onnx"]),
            waveforms,
            lambda step: steps.print(f"{step} ..."),
            int8=int8,
        )
    if as_json:
        show_json(json.loads((done.directory / FACTS_NAME).read_text(encoding="utf-8")))
    else:
        _show(done)


def _known(formats: list[str]) -> list[Format]:
    known = get_args(Format)
    if wrong := set(formats) - set(known):
        raise ConfigError(f"--format {sorted(wrong)[0]}: use {', '.join(known)}")
    return [one for one in known if one in formats]


def read_clips(manifest: str) -> Sequence[np.ndarray]:
    """int16 (n_samples,) at 16 kHz: the first 30 s of the first 20 readable recordings."""
    clips: list[np.ndarray] = []
    for row in read_manifest(manifest, {}).table.to_pylist():
        if len(clips) == _MOST_CLIPS:
            break
        if row["error_stage"]:
            continue
        try:
            window = next(decode(row["uri"], AudioConfig(), {}, row["offset_s"], _MOST_S))
        except RecordingError:  # the demo has broken files, too
            continue
        if len(window.waveform) >= SAMPLE_RATE // 10:
            clips.append(window.waveform)
    if not clips:
        raise ConfigError(f"{manifest}: no recording of it can be read; give others with --audio")
    return clips


def _show(done: Converted) -> None:
    console = results()
    for name in done.networks:
        size = (done.directory / name).stat().st_size / 1e6
        found = done.agreements.get(name)
        console.print(f"{done.directory / name}  {size:,.1f} MB{_agreement(found)}", soft_wrap=True)
        if name in done.sherpa:
            text = done.sherpa[name]
            said = "sherpa-onnx is not installed" if text is None else f"sherpa-onnx: {text!r}"
            console.print(f"  {said}", markup=False, highlight=False, soft_wrap=True)


def _agreement(found: Agreement | None) -> str:
    if found is None:
        return ""
    return (
        f"; on {found.n_clips} clips equal to the model: frames {found.equal_frames:.2%}, "
        f"tags {found.equal_tags:.1%}, texts {found.equal_texts:.1%}; "
        f"largest difference of a probability {found.largest_difference:.1g}"
    )


app = one_command(main)

if __name__ == "__main__":
    app()
