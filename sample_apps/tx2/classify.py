#!/usr/bin/env python3
"""Classify photographs, or what a camera sees, on a Jetson TX2, with no network.

    python3 classify.py IMAGE...
    python3 classify.py --camera csi

The folder that `leafport app tx2` writes holds all that this needs: graphs and ONNX files in files/, contract.json, and
golden images, with which it checks itself first. It takes the best file that this machine can run, or the one named
with --graph. Needs numpy, Pillow 6 or later, and TensorFlow 1.15 or 2.x (with an ONNX file: TensorRT 8.5 or later); a
camera needs OpenCV, which JetPack brings. Written in the Python of JetPack 4, 3.6.
"""

import argparse
import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # Warnings stay: TF-TRT says in one that it built no engine.
# In TensorFlow 2 a board that cannot build an engine shall say so, and not run its segment without one.
os.environ.setdefault("TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION", "false")

HERE = Path(__file__).resolve().parent
TOP = 3
GOLDEN_TOLERANCE, NEAR_TIE = 0.15, 0.05
CSI = (
    "nvarguscamerasrc ! video/x-raw(memory:NVMM), width=1280, height=720, framerate=30/1 ! nvvidconv ! "
    "video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! appsink drop=true max-buffers=1"
)
ENGINE_OP = "TRTEngineOp"
BUILT_BY = "built-by.txt"
LIBRARIES = ("/usr/lib/aarch64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
CONTRACT_ATTRIBUTE = "_leafport_contract"
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF")
KERNELS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "area": Image.BOX}
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
MAX_PIXELS = 2**27
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class AppError(Exception):
    """Something the user can put right."""


class Classifier:
    """A frozen graph in a session. ``predict`` takes pixels (uint8 [H, W, 3]) and gives probabilities [classes].

    Engines that build_engines.py has put on the disk are read from there; others TensorRT builds with the first
    photograph. ``simulate`` runs the native segments of engines instead: the right answers, and nothing of the speed.
    """

    def __init__(self, graph_path, contract, simulate=False, memory_fraction=None, restore=True):
        graph_def = read_graph(graph_path, contract)
        import tensorflow as tf

        self._errors = tf.errors.OpError
        self.engines = [node.name for node in graph_def.node if node.op == ENGINE_OP]
        self.restored = False
        self.executes = "TensorFlow {}{}".format(tf.__version__, " with TensorRT" if self.engines else "")
        if self.engines and simulate:
            self.executes = "native segments in TensorFlow {} (simulated: no TensorRT)".format(tf.__version__)
            call_native_segments(graph_def)
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.import_graph_def(graph_def, name="")
        except (ValueError, KeyError, tf.errors.OpError) as problem:
            raise self._refused(problem) from None
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        config.gpu_options.allow_growth = True  # The TX2's CPU and GPU share one memory: take only what is needed.
        if memory_fraction:
            config.gpu_options.per_process_gpu_memory_fraction = memory_fraction
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        batch = graph.get_tensor_by_name("image:0").shape[0]
        self._batch = getattr(batch, "value", batch) or 1
        if not self.engines or simulate:
            return
        stored = engines_folder(graph_path)
        if all((stored / name).is_file() for name in self.engines):
            operations = restore_operations(graph, self.engines, stored)
            try:
                self._session.run(operations)
            except tf.errors.OpError as problem:
                raise self._refused(
                    problem, "Are the engines of another board or TensorRT? Build them again."
                ) from None
        else:
            print("TensorRT builds its engines with the first photograph: this takes a while.", file=sys.stderr)

    def predict(self, pixels):
        fed = np.repeat(pixels[np.newaxis].astype(np.float32), self._batch, axis=0)
        try:
            return self._session.run("probabilities:0", {"image:0": fed})[0]
        except self._errors as problem:
            raise self._refused(problem) from None

    def store_engines(self, stored):
        """Put the engines that were built into the folder ``stored``. An engine that was not built has no bytes."""
        stored.mkdir(parents=True, exist_ok=True)
        parts = {name: stored / (resource(name) + ".part") for name in self.engines}
        try:
            self._session.run(store_operations(self._session.graph, parts))
        except self._errors as problem:
            raise self._refused(problem) from None
        empty = [name for name, part in parts.items() if not part.is_file() or not part.stat().st_size]
        if empty:
            for part in parts.values():
                if part.is_file():
                    part.unlink()
            raise AppError(
                "TensorRT built no engine for {}: TensorFlow ran it without. Warnings that start with TF-TRT say why; "
                "with less memory in use it may succeed.".format(", ".join(empty))
            )
        for name, part in parts.items():
            part.replace(stored / resource(name))
        (stored / BUILT_BY).write_text(board_and_tensorrt(), encoding="utf-8")

    def _refused(self, problem, advice=None):
        import tensorflow as tf

        usual = "This TensorFlow has no TensorRT: use the frozen graph." if self.engines else "Is the file damaged?"
        words = getattr(problem, "message", "") or str(problem)
        first = words.splitlines()[0]
        return AppError("TensorFlow {} refuses the graph. {} ({})".format(tf.__version__, advice or usual, first))


def call_native_segments(graph_def):
    """Turn each engine, in place, into a call of the function that it would be built from."""
    for node in graph_def.node:
        if node.op == ENGINE_OP:
            engine = type(node)()
            engine.CopyFrom(node)
            node.Clear()
            node.name, node.op = engine.name, "PartitionedCall"
            node.input.extend(engine.input)
            for name, engines_name in (("Tin", "InT"), ("Tout", "OutT"), ("f", "segment_func")):
                node.attr[name].CopyFrom(engine.attr[engines_name])


def engines_folder(graph_path):
    """Where the engines of one graph lie: beside it, under the hash of the file, so that no other graph finds them."""
    return graph_path.parent / "engines" / hashlib.sha256(graph_path.read_bytes()).hexdigest()[:16]


def resource(engine):
    """The name under which TF-TRT keeps an engine: its node's, without scopes."""
    return engine.rpartition("/")[2]


def board_and_tensorrt():
    """What built engines depend on: the board's model, its release of JetPack, and the libraries of TensorRT there."""
    found = []
    for path in ("/proc/device-tree/model", "/etc/nv_tegra_release"):
        try:
            found.append(Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n "))
        except OSError:
            found.append("unknown")
    libraries = {path.name for folder in LIBRARIES for path in Path(folder).glob("libnvinfer.so.*")}
    return "\n".join(found + sorted(libraries)) + "\n"


def restore_operations(graph, engines, stored):
    """Operations that read engines from the disk. TF-TRT looks for an engine under its node's name."""
    import tensorflow as tf
    from tensorflow.compiler.tf2tensorrt.ops import gen_trt_ops

    with graph.as_default(), tf.device("/GPU:0"):
        return [
            gen_trt_ops.initialize_trt_resource(
                gen_trt_ops.create_trt_resource_handle(resource_name=resource(name)), str(stored / resource(name)), 1
            )
            for name in engines
        ]


def store_operations(graph, files):
    """Operations that write built engines to the disk, each by its name to a file."""
    import tensorflow as tf
    from tensorflow.compiler.tf2tensorrt.ops import gen_trt_ops

    with graph.as_default(), tf.device("/GPU:0"):
        return [gen_trt_ops.serialize_trt_resource(resource(name), str(file)) for name, file in files.items()]


def has_tensorflow_gpu():
    """Whether there is a TensorFlow that sees a GPU and knows TF-TRT."""
    try:
        import tensorflow as tf
        from tensorflow.compiler.tf2tensorrt.ops import gen_trt_ops  # noqa: F401
    except ImportError:
        return False
    return bool(tf.config.experimental.list_physical_devices("GPU"))


def tensorrt_alone():
    """The module that drives TensorRT without TensorFlow, where it lies beside this one and has a TensorRT; or None."""
    try:
        import onnx_engine
    except ImportError:
        return None
    return onnx_engine if onnx_engine.available() else None


def open_best(folder, contract, graph=None, memory_fraction=None):
    """The file named, or the best in the folder that this machine runs: engines, else TensorRT alone, else frozen."""
    if graph is None:
        wanted = ["-fp16.pb", "-fp32.pb"] if has_tensorflow_gpu() else []
        wanted += [".onnx"] if tensorrt_alone() else []
        found = [path for end in [*wanted, "-frozen.pb"] for path in sorted((folder / "files").glob("*" + end))]
        if not found:
            raise AppError("There is no file in {} that runs here.".format(folder / "files"))
        graph = found[0]
    print("Using {}".format(graph.name), file=sys.stderr)
    return open_file(graph, contract, memory_fraction=memory_fraction)


def open_file(path, contract, simulate=False, memory_fraction=None):
    """The classifier in a .pb or .onnx file."""
    if path.suffix == ".pb":
        return Classifier(path, contract, simulate, memory_fraction)
    tensorrt = tensorrt_alone()
    if tensorrt is None:
        raise AppError("{} needs TensorRT 8.5 or later with its Python package, and onnx_engine.py.".format(path.name))
    rule = contract["image"]
    try:
        return tensorrt.OnnxClassifier(path, (rule["height"], rule["width"], 3), len(contract["labels"]))
    except (OSError, RuntimeError) as problem:
        raise AppError(str(problem)) from None


def answered(classifier, pixels):
    """The probabilities of one image; whatever a runtime says instead is an AppError."""
    try:
        probabilities = classifier.predict(pixels)
    except RuntimeError as problem:
        raise AppError(str(problem)) from None
    if not np.isfinite(probabilities).all():  # 16 bits can overflow, and "nan" would be below every threshold.
        raise AppError("There are no probabilities for this photograph: use a file of 32 bits.")
    return probabilities


def check_golden(folder, classifier, contract):
    """Refuse a file that names the golden images otherwise than its classifier; returns how many there are."""
    if not (folder / "golden").is_dir():
        print("There are no golden images beside contract.json: its answers were not checked.", file=sys.stderr)
        return 0
    try:
        golden = json.loads((folder / "golden" / "golden.json").read_text(encoding="utf-8"))["images"]
        for record in golden:
            expected = np.array(record["probabilities"])
            with Image.open(str(folder / "golden" / record["pixels"])) as image:
                answers = answered(classifier, np.asarray(image.convert("RGB"), dtype=np.uint8))
            difference = float(np.abs(answers - expected).max())
            near_tie = expected.max() - expected[answers.argmax()] < NEAR_TIE
            if (answers.argmax() != expected.argmax() and not near_tie) or difference > GOLDEN_TOLERANCE:
                labels = contract["labels"]
                raise AppError(
                    "It does not answer as its classifier: of the golden image {} it says {} ({:.3f}), and should say "
                    "{} ({:.3f}). Use another file.".format(
                        record["pixels"],
                        labels[answers.argmax()],
                        answers.max(),
                        labels[expected.argmax()],
                        expected.max(),
                    )
                )
        return len(golden)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise AppError("The golden images in {} cannot be read: {}.".format(folder / "golden", problem)) from None


def camera_frames(source):
    """Pictures of a camera, PIL images: ``csi`` for the board's own, a number, or a GStreamer pipeline."""
    try:
        import cv2
    except ImportError:
        raise AppError("A camera needs OpenCV: install JetPack's own (python3-opencv).") from None
    camera = (
        cv2.VideoCapture(CSI, cv2.CAP_GSTREAMER)
        if source == "csi"
        else cv2.VideoCapture(int(source) if source.isdigit() else source)
    )
    if not camera.isOpened():
        raise AppError("The camera {} does not open.".format(source))
    try:
        while True:
            taken, frame = camera.read()
            if not taken:
                raise AppError("The camera {} gives no more pictures.".format(source))
            yield Image.fromarray(frame[:, :, ::-1])  # OpenCV has blue first.
    finally:
        camera.release()


def read_graph(path, contract):
    """A GraphDef, if it was made for this contract: another model's labels would be worse than none."""
    try:
        import tensorflow as tf
        from google.protobuf.message import DecodeError
    except ImportError:
        raise AppError("There is no TensorFlow: README.md says which one a board needs.") from None

    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except OSError as problem:
        raise AppError(f"{path} cannot be read: {problem.strerror}.") from None
    except DecodeError:
        raise AppError(f"{path} is not a frozen graph, or damaged.") from None
    placeholders = [node for node in graph_def.node if node.op == "Placeholder" and node.name == "image"]
    if not placeholders or CONTRACT_ATTRIBUTE not in placeholders[0].attr:
        raise AppError(f"{path} is not one of leafport's tftrt graphs, or damaged.")
    try:
        carried = json.loads(placeholders[0].attr[CONTRACT_ATTRIBUTE].s.decode())
    except ValueError:
        raise AppError(f"{path} is damaged.") from None
    if carried != contract:
        raise AppError(f"{path} was made for another contract than the one given: they must go together.")
    return graph_def


def read_contract(path):
    try:
        contract = json.loads(path.read_text(encoding="utf-8"))
        return contract, contract["labels"], contract["image"]
    except OSError as problem:
        raise AppError(f"{path} cannot be read: {problem.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise AppError(f"{path} is not a classifier's contract.") from None


def read_image(path, rule):
    """The photograph as the contract's image rule wants it: uint8 [height, width, 3], RGB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(str(path)) as image:
                if image.format not in FORMATS or image.size[0] * image.size[1] > MAX_PIXELS:
                    raise AppError(f"{path} is not a photograph this app reads, or too large.")
                image.load()
                return fit(to_rgb(ImageOps.exif_transpose(image)), rule)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as problem:
        raise AppError(f"{path} cannot be read: {problem}.") from None


def to_rgb(image):
    """8-bit RGB: 16-bit greys scaled, transparency on white."""
    if image.mode in SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray((grey / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).convert("RGB")
    transparent = image.mode in TRANSPARENT or "transparency" in image.info
    if transparent or (image.mode == "P" and image.palette.mode.endswith("A")):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def fit(image, rule):
    """Resize as the contract says: the whole photograph (squash) or its largest centred part (crop)."""
    size = (rule["width"], rule["height"])
    box = (0, 0, *image.size) if rule["fit"] == "squash" else crop_box(image.size, size)
    kernel = KERNELS[rule["kernel"]]
    if rule["antialias"] or rule["kernel"] == "nearest":
        return np.asarray(image.resize(size, kernel, box=box), dtype=np.uint8)
    return np.asarray(image.transform(size, Image.EXTENT, box, resample=kernel), dtype=np.uint8)


def crop_box(size, target):
    """(left, top, right, bottom) of the largest centred rectangle with the target's shape, in whole pixels."""
    width, height = size
    if width * target[1] >= height * target[0]:
        cropped = (max(1, height * target[0] // target[1]), height)
    else:
        cropped = (width, max(1, width * target[1] // target[0]))
    left, top = (width - cropped[0]) // 2, (height - cropped[1]) // 2
    return left, top, left + cropped[0], top + cropped[1]


def verdict(probabilities, labels, safety):
    """What to tell somebody who may eat it. It never says that anything is safe."""
    positives = [labels.index(label) for label in safety["positive_labels"]]
    score = min(1.0, float(sum(probabilities[index] for index in positives)))
    measured = f"score {score:.4f}, threshold {safety['threshold']:.4f}"
    low, high = safety.get("not_sure") or (2, 2)
    if low <= score <= high:
        return f"not sure: do not eat ({measured})"
    if score >= safety["threshold"]:
        likeliest = max(positives, key=lambda index: probabilities[index])
        return f"{labels[likeliest]}: do not eat ({measured})"
    likeliest = labels[int(np.argmax(probabilities))]
    return f"looks like {likeliest}, but do not eat on this app's word ({measured})"


def show(name, probabilities, labels, safety):
    """Print the likeliest labels, and the verdict where there is one."""
    print(name)
    for place, index in enumerate(np.argsort(-probabilities, kind="stable")[:TOP], start=1):
        print("  {}. {:.4f}  {}".format(place, probabilities[index], labels[index]))
    if safety:
        print("  " + verdict(probabilities, labels, safety))


def watch(source, classifier, rule, labels, safety):
    """Classify what a camera sees, until it ends or Ctrl-C."""
    for number, frame in enumerate(camera_frames(source), start=1):
        show("picture {}".format(number), answered(classifier, fit(frame, rule)), labels, safety)
        sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description="Classify photographs with what `leafport app tx2` wrote.")
    parser.add_argument("images", type=Path, metavar="IMAGE", nargs="*", help="photographs")
    parser.add_argument("--camera", metavar="SOURCE", help="csi, a number, or a GStreamer pipeline")
    parser.add_argument("--graph", type=Path, metavar="FILE", help="this .pb or .onnx instead of the best in files/")
    parser.add_argument("--contract", type=Path, metavar="FILE", help="instead of the one beside this")
    parser.add_argument("--memory-fraction", type=float, metavar="SHARE", help="most of the GPU's memory to take")
    arguments = parser.parse_args()
    if bool(arguments.images) == bool(arguments.camera):
        parser.error("name photographs, or a --camera")
    try:
        path = arguments.contract or HERE / "contract.json"
        contract, labels, rule = read_contract(path)
        folder = path.parent
        classifier = open_best(folder, contract, arguments.graph, arguments.memory_fraction)
        check_golden(folder, classifier, contract)
        if arguments.camera:
            watch(arguments.camera, classifier, rule, labels, contract.get("safety"))
    except AppError as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    unread = 0
    for path in arguments.images:
        try:
            show(path, answered(classifier, read_image(path, rule)), labels, contract.get("safety"))
        except AppError as problem:
            print(problem, file=sys.stderr)
            unread += 1
    return 1 if unread else 0


if __name__ == "__main__":
    sys.exit(main())
