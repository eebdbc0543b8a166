"""The command line of the stream."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.options import RunOptions

log = logging.getLogger("pipeline")

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

ENGINES = (
    "auto", "openvino", "onnxruntime", "torch",
    "tensorrt", "onnxruntime-tensorrt", "onnxruntime-rtx", "onnxruntime-cuda", "torch-cuda", "torch-compile",
)  # fmt: skip

EXAMPLES = """\
The directory of an output is made where it alone is missing; a longer path must be there (mkdir -p).

examples:
  %(prog)s --input street.mp4 --output overlay.mp4
  %(prog)s --input street.mp4 --output overlay.mp4 --masks labels.mkv --report report.json
  %(prog)s --input street.mp4 --output null --masks labels/ --start 1:30 --duration 10
  %(prog)s --input cam0 --video-size 1280x720 --pixel-format mjpeg --output - | ffplay -
  %(prog)s --input cam0 --output 'rec/{name}-%%Y%%m%%d-%%H%%M%%S.mkv' --keep-time 72:00:00 --keep-size 200G
  %(prog)s --input rtsp://camera/1 --output rtsp://@:8554/street --output http://@:8080/
  %(prog)s --input 'rtsp://me:${CAMERA_PASSWORD}@10.0.0.7/ch1' --output door.mkv --mode live
  %(prog)s --config site.yaml --report site.json
  %(prog)s --input 'clips/*.mp4' --output 'out/{name}.mp4' --model street --dense-crf
  %(prog)s --input cam0 --output - --infer-every auto --temporal | ffplay -
  %(prog)s --input a.mp4 --output a-seen.mp4 --input b.mp4 --output b-seen.mp4
  %(prog)s --input frames/%%05d.png --output overlay.mp4 --model mine.onnx --classes person,car
"""


def entry() -> None:
    """Console script: run and exit with its status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_OK))  # until a run has begun, which knows better
    status = main()
    from engines.stragglers import leave

    leave(status)  # whoever said stop does not wait for a network's deadline


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    parser = make_parser()
    flags = parser.parse_args(arguments)
    from pipeline.cli import logs

    logs.set_up(flags.verbose, quiet=flags.quiet, form=flags.log_format)
    try:
        status = _dispatch(flags)
        if sys.stdout is not None:  # None where it was closed before the start
            sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our standard output is gone; say nothing more into it, also at exit.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        return _complain(parser.prog, error, flags)
    return status


def _complain(program: str, error: Exception, flags: argparse.Namespace) -> int:
    """Say on one line what went wrong; the exit status."""
    from engines.base import EngineError
    from pipeline.errors import ConfigError, PipelineError
    from pipeline.sources.uri import mask_uri

    if flags.verbose:
        log.error("failed", exc_info=error)
    message = mask_uri(str(error))
    if not isinstance(error, PipelineError | EngineError):
        told = " ".join(message.split())
        message = f"unexpected {type(error).__name__}: {told} (-v shows where; please report it)"
    told = "\\n".join(message.splitlines())  # a file's name may hold line breaks
    if flags.log_format == "json":
        log.error("%s", told)
    elif sys.stderr is not None:  # else it would go to standard output
        print(f"{program}: error: {told}", file=sys.stderr)
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


class _Ordered(argparse.Action):
    """Remembers --input, --output and --masks in the order given: an output belongs to the input before it."""

    def __call__(self, _: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *__: object) -> None:
        namespace.places = [*(namespace.places or []), (self.dest, values)]


def make_parser() -> argparse.ArgumentParser:
    """The parser; its option names are a promise."""
    parser = argparse.ArgumentParser(
        prog="deeplab-stream" if Path(sys.argv[0]).name == "deeplab-stream" else "run_pipeline.py",
        description="Segment video with DeepLab: overlay videos, masks and streams from files, cameras and networks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a new flag must not break somebody's script
    )
    parser.set_defaults(places=None)
    _add_places(parser.add_argument_group("what goes in and out"))
    _add_live(parser.add_argument_group("cameras and network streams"))
    _add_network(parser.add_argument_group("network"))
    _add_time(parser.add_argument_group("from frame to frame"))
    _add_picture(parser.add_argument_group("picture"))
    _add_recording(parser.add_argument_group("recording, where a name tells the time: rec/{name}-%Y%m%d-%H%M%S.mkv"))
    _add_serving(parser.add_argument_group("serving"))
    _add_running(parser.add_argument_group("running"))
    return parser


def _add_places(group: argparse._ArgumentGroup) -> None:
    def place(flag: str, text: str) -> None:
        group.add_argument(flag, action=_Ordered, metavar=flag[2:].upper(), help=text)

    place(
        "--input",
        "video, glob, directory or pattern of images, '-', camN, /dev/videoN, cam:NAME, URL, lavfi:GRAPH, 'sample'; "
        "${VARIABLE} and ${file:PATH} in it are put in",
    )
    place(
        "--output",
        "overlay: .mp4 .mkv .webm .mov (with %%Y%%m%%d-%%H%%M%%S in the name: in segments), directory or pattern of "
        "images, '-', 'null'; rtsp://@:8554/NAME and http://@:8080/ serve, rtsp://HOST/NAME and rtmp://HOST/APP/KEY "
        "publish; takes {name}",
    )
    place(
        "--masks",
        "labels, lossless: .mkv (FFV1), directory of indexed PNG, .jsonl (COCO RLE), '-', 'null'; tcp://@:PORT serves",
    )
    group.add_argument("--config", metavar="PRESET|FILE", help="a preset by name, or a YAML file; flags win over it")
    group.add_argument("--start", metavar="S", help="skip to this time, which is 0 in overlays: seconds or [HH:]MM:SS")
    group.add_argument("--duration", metavar="S", help="stop after this much")
    group.add_argument("--max-frames", type=int, metavar="N", help="stop after this many frames")
    group.add_argument("--loop", type=int, metavar="N", help="play a file this many times, 0: for ever")
    group.add_argument("--realtime", action="store_true", default=None, help="play a file at its own pace, as a camera")


def _add_live(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--video-size", metavar="WxH", help="asked of a camera, such as 1280x720")
    group.add_argument("--framerate", type=float, metavar="FPS", help="asked of a camera")
    group.add_argument("--pixel-format", metavar="NAME", help="asked of a camera: mjpeg, yuyv422 …; see --list-inputs")
    group.add_argument(
        "--rtsp-transport",
        choices=("auto", "tcp", "udp"),
        help="of RTSP inputs; auto, the default, is TCP where the server has it",
    )
    group.add_argument("--reconnect", type=int, metavar="N", help="tries in a row after a loss; default: for ever")
    group.add_argument(
        "--max-latency",
        type=float,
        metavar="MS",
        help="live pictures that are older never reach the engine (200), or follow the motion, see --infer-every",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", metavar="auto|NAME|FILE.onnx", help="see --list-models; default auto: voc if it is "
                       "here or comes within seconds, else street")  # fmt: skip
    group.add_argument("--size", type=int, metavar="N", help="short side of the network's input; default the model's")
    group.add_argument(
        "--engine", choices=ENGINES, help="library that runs the network; default auto: on an NVIDIA GPU tensorrt, "
        "onnxruntime-tensorrt, -rtx or -cuda, torch-cuda; else openvino, onnxruntime",
    )  # fmt: skip
    group.add_argument("--precision", choices=("auto", "fp32", "fp16", "int8"), help="fp16 is bf16 on processors that "
                       "multiply that alone; default auto: the fastest that keeps the model's labels")  # fmt: skip
    group.add_argument("--refine", choices=("none", "guided", "crf"), help="sharpen the labels; default none")
    group.add_argument("--dense-crf", action="store_true", help="the same as --refine crf")
    group.add_argument("--crf-workers", type=int, metavar="N", help="processes that refine; default by the machine")
    group.add_argument("--crf-iterations", type=int, metavar="N", help="mean-field iterations, for live at most")


def _frames(text: str) -> int | str:
    """N of ``--infer-every``, or ``auto``."""
    try:
        return int(text)
    except ValueError:
        return text  # a word is judged with the other options


def _add_time(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--temporal", action="store_true", default=None, help="mix scores along the motion")
    group.add_argument("--infer-every", type=_frames, metavar="N|auto", help="network on every Nth, others follow")
    group.add_argument("--target-fps", type=float, metavar="F", help="with auto: as many to the network as this allows")


def _add_picture(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--render", choices=("overlay", "mask", "side-by-side"), help="what --output shows; default overlay"
    )
    group.add_argument("--alpha", type=float, metavar="A", help="opacity of the overlay, 0 to 1")
    group.add_argument("--classes", metavar="NAME,…", help="paint these classes alone")
    group.add_argument("--legend", action=argparse.BooleanOptionalAction, default=None, help="names and shares")
    group.add_argument("--quality", type=int, metavar="Q", help="of the overlay's encoder; lower is better (CRF scale)")
    group.add_argument(
        "--codec",
        metavar="NAME",
        help="encoder of the overlay: h264, hevc, vp9, av1 or ffv1, or what libav calls one (libx264, h264_nvenc …), "
        "which then is taken and no other",
    )


def _add_recording(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--segment-time", metavar="S", help="length of a file; default 10:00")
    group.add_argument("--segment-size", metavar="SIZE", help="begin the next file at this size, such as 500M")
    group.add_argument("--keep-time", metavar="S", help="remove files that are older")
    group.add_argument("--keep-size", metavar="SIZE", help="remove the oldest files beyond this size in all")


def _add_serving(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--auth", metavar="USER:${NAME}", help="credentials that clients must give (quote it)")
    group.add_argument("--auth-file", metavar="FILE", help="file of USER:PASSWORD lines")
    group.add_argument("--tls-cert", metavar="FILE", help="certificate chain of the page, PEM")
    group.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")
    group.add_argument("--insecure", action="store_true", default=None, help="serve other machines without those")
    group.add_argument("--metrics-port", metavar="PORT", help="tell Prometheus, and /healthz and /readyz, at this port")
    group.add_argument("--serve-host", action="append", metavar="NAME", help="a name by which browsers call the page")


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--mode", choices=("auto", "live", "lossless"), help="live drops frames, lossless waits")
    group.add_argument(
        "--hwaccel",
        choices=("auto", "none", "cuda"),
        help="decode and encode on an NVIDIA GPU; default auto: where there is one that can, else in software",
    )
    group.add_argument("--report", metavar="FILE.json", help="write the whole report")
    group.add_argument("--explain", metavar="DIR", help="write one frame's way through the network as pictures")
    group.add_argument("--dry-run", action="store_true", help="open everything, say what would be done, and stop")
    group.add_argument("--list-inputs", action="store_true", help="cameras and other inputs on this machine")
    group.add_argument("--list-models", action="store_true", help="models by name")
    group.add_argument("--doctor", action="store_true", help="what this machine can do, and what installs the rest")
    group.add_argument("--quiet", action="store_true", help="errors alone")
    group.add_argument("--log-format", choices=("text", "json"), default="text", help="an object a line, or plain text")
    group.add_argument("-v", "--verbose", action="count", default=0, help="more (-vv: everything), and tracebacks")


def make_options(flags: argparse.Namespace) -> RunOptions:
    """The run that the flags describe.

    Raises:
        ConfigError: flags that contradict each other, or a bad preset.
    """
    from pipeline.cli.places import pair_up, parse_time, settle
    from pipeline.config import FLAGS, load_options
    from pipeline.errors import ConfigError

    given = {name: getattr(flags, name) for name in FLAGS if getattr(flags, name) is not None}
    if flags.dense_crf:
        if flags.refine not in (None, "crf"):
            raise ConfigError(f"--dense-crf is --refine crf: leave one of it and --refine {flags.refine} out")
        given["refine"] = "crf"
    if flags.classes is not None:
        given["classes"] = [name.strip() for name in flags.classes.split(",") if name.strip()]
        if not given["classes"]:
            raise ConfigError("--classes names no class")
    for name in {"start", "duration", "segment_time", "keep_time"} & given.keys():
        given[name] = parse_time(given[name], f"--{name.replace('_', '-')}")
    overrides = {FLAGS[name]: value for name, value in given.items()}
    may_write_nothing = flags.explain is not None
    if flags.places:
        overrides[("inputs",)] = pair_up(flags.places, may_write_nothing=may_write_nothing)
    options = load_options(flags.config, overrides)
    if flags.auth is not None and "${" not in flags.auth:
        log.warning(
            "--auth: everybody on this machine can read the password in the list of processes: "
            "write it as 'USER:${NAME}', or give --auth-file"
        )
    if not options.inputs:
        raise ConfigError("no input: name one with --input (try --input sample)")
    return (
        options
        if flags.places
        else replace(options, inputs=settle(options.inputs, may_write_nothing=may_write_nothing))
    )


def _dispatch(flags: argparse.Namespace) -> int:
    _refuse_empty(flags)
    if flags.doctor:
        from pipeline.cli import doctor

        text, status = doctor.report()
        print(text)
        return status
    if flags.list_inputs or flags.list_models:
        from pipeline.cli import listing

        print(listing.inputs() if flags.list_inputs else listing.models())
        return EXIT_OK
    if flags.explain is not None:
        _refuse_outputs_beside_explain(flags)
    options = make_options(flags)
    if flags.explain is not None:
        from pipeline.cli.explain import explain

        print(explain(options, Path(flags.explain)))
        return EXIT_OK
    from pipeline.runner.clashes import refuse_clashes

    refuse_clashes(options, flags.report)
    if flags.dry_run:
        from engines.masking import hide
        from pipeline.cli.listing import plan

        print(hide(plan(options, flags.report)))
        return EXIT_OK
    from pipeline.cli.session import perform

    return perform(options, report=flags.report, quiet=flags.quiet, in_logs=flags.log_format == "json")


def _refuse_empty(flags: argparse.Namespace) -> None:
    """A variable of a script that was not set, most often; as a path it would mean the current directory."""
    from pipeline.errors import ConfigError

    for name, value in (*vars(flags).items(), *(flags.places or ())):
        if value == "":
            raise ConfigError(f"--{name.replace('_', '-')} is empty: give it a value, or leave it out")


def _refuse_outputs_beside_explain(flags: argparse.Namespace) -> None:
    from pipeline.errors import ConfigError

    given = [f"--{kind}" for kind, _ in flags.places or () if kind != "input"]
    given += ["--report"] if flags.report is not None else []
    if given:
        raise ConfigError(f"--explain writes pictures of one frame and nothing else: leave {given[0]} out")
