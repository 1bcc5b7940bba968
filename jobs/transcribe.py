"""Print the labels of single files: python -m jobs transcribe FILE... [--json|--srt|--vtt]."""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import RunConfig, check_config, load_config, load_options
from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    messages,
    one_command,
    refusing,
    results,
    show_error,
    show_json,
)
from pipeline.console.plain_text import visible
from pipeline.console.values import to_json
from pipeline.errors import ConfigError, ModelError, advice_for
from pipeline.export.captions import Cue, cue_text, to_srt, to_vtt
from pipeline.planning.machine import available_cores
from pipeline.stages.one_file import FileLabeller, LabelledFile

_WITHOUT_DOWNLOAD = (
    ". To try the command without a download, use the toy model of this project: "
    "--model configs/demo/model --vad silero"
)


def main(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="audio files: paths or URIs")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="hub id, directory or URI; default: iic/SenseVoiceSmall, 1 GB"),
    ] = None,
    vad: Annotated[
        str | None,
        typer.Option(help="none, silero, fsmn-vad, or a directory of FSMN-VAD; default: fsmn-vad"),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="auto, zh, en, yue, ja or ko; default: auto")
    ] = None,
    config_path: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file of a run, whose model and settings are used"),
    ] = None,
    overrides: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    as_srt: Annotated[bool, typer.Option("--srt", help="print SubRip captions")] = False,
    as_vtt: Annotated[bool, typer.Option("--vtt", help="print WebVTT captions")] = False,
) -> None:
    """Print the labels of single files, without tables.

    The labels are those that `label` would write: the same code decodes, segments and labels, in
    this process. Exit codes: 0 done, 2 refused, 3 done, but some files could not be labelled.
    """
    with refusing(as_json=as_json):
        if as_json + as_srt + as_vtt > 1:
            raise ConfigError("choose one of --json, --srt and --vtt")
        if (as_srt or as_vtt) and len(files) > 1:
            raise ConfigError("captions are printed for one FILE; label and export write many")
        chosen = {"model": model, "vad": vad, "label.language": language}
        config = _configure(config_path, overrides or [], chosen)
        labeller = _load(config)
    n_failed = 0
    facts = []
    for file in files:
        labelled = labeller.label(file)
        n_failed += bool(labelled.error_stage)
        facts.append(to_json(asdict(labelled)))
        if not as_json:
            _show(labelled, as_srt=as_srt, as_vtt=as_vtt, has_title=len(files) > 1)
    if as_json:
        show_json({"model": config.model, "files": facts})
    sys.exit(3 if n_failed else 0)


def _configure(path: Path | None, overrides: list[str], chosen: dict[str, str | None]) -> RunConfig:
    """The configuration of CONFIG or the defaults, with the options of the command."""
    given = [f"{key}={value}" for key, value in chosen.items() if value]
    if path:
        config = load_config(path, [*overrides, *given])
    else:
        values = load_options(given)
        options = load_options(overrides)
        config = check_config({"manifest": "", "output": "", "storage_options": options} | values)
    # One process has all cores; a worker of a run has `label_cpus`.
    ray = config.ray.model_copy(update={"label_cpus": float(available_cores())})
    return config.model_copy(update={"ray": ray})


def _load(config: RunConfig) -> FileLabeller:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, on how Silero is stored
            return FileLabeller(config)
    except ModelError as error:
        if config.model == RunConfig.model_fields["model"].default:
            raise ModelError(f"{error}{_WITHOUT_DOWNLOAD}") from error
        raise


def _show(labelled: LabelledFile, *, as_srt: bool, as_vtt: bool, has_title: bool) -> None:
    """Print labels to stdout; an error or a warning, in the words of the tables, to stderr."""
    if as_srt or as_vtt:
        cues = list(_cues(labelled))
        typer.echo(visible(to_srt(cues) if as_srt else to_vtt(cues)), nl=False)
    else:
        console = results()
        if has_title:
            console.print(f"{labelled.file}  {labelled.duration_s:.1f} s", style="bold")
        for line in _lines(labelled):
            console.print(line)
    if labelled.warning:
        messages().print(f"warning: {labelled.file}: {labelled.warning}", style="yellow")
    if labelled.error_stage:
        kind = labelled.error_type
        show_error(f"{labelled.file}: {labelled.error_stage}: {kind}: {labelled.error_message}")
        messages().print(f"-> {advice_for(kind)}.")


def _lines(labelled: LabelledFile) -> Iterator[str]:
    for segment in labelled.segments:
        text = cue_text(segment["text"], segment["events"])
        confidence = segment["confidence"]
        told = "    " if confidence is None else f"{confidence:.2f}"
        text = f"[channel {segment['channel']}] {text}" if segment["channel"] else text
        yield (
            f"{segment['start_s']:8.2f} {segment['end_s']:8.2f}  {segment['language']:<8} "
            f"{segment['emotion']:<9} {told}  {text}"
        )
    if not labelled.segments and not labelled.error_stage:
        yield "no segment found"


def _cues(labelled: LabelledFile) -> Iterator[Cue]:
    for index, segment in enumerate(labelled.segments):
        if text := cue_text(segment["text"], segment["events"]):
            key = f"{Path(labelled.file).stem}-{index:06d}"
            voice = f"Channel {segment['channel']}" if segment["channel"] else ""
            yield Cue(key, segment["start_s"], segment["end_s"], text, voice)


app = one_command(main)

if __name__ == "__main__":
    app()
