"""An ONNX file in TensorRT's own runtime, for newer Jetsons, where TensorFlow has no TF-TRT.

    /usr/src/tensorrt/bin/trtexec --onnx=files/NAME-float32.onnx --fp16 --saveEngine=files/NAME-fp16.engine \\
        --minShapes=image:1xHxWx3 --optShapes=image:1xHxWx3 --maxShapes=image:1xHxWx3

builds the engine (README.md has the command for this model). Needs TensorRT 8.5 or later with its Python package, and
the CUDA runtime. Lies beside classify.py, which uses it by itself.
"""

import ctypes
import ctypes.util

import numpy as np

LEAST = (8, 5)
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind


def available():
    """Whether there is a TensorRT that this program can drive."""
    try:
        import tensorrt
    except ImportError:
        return False
    return tuple(int(part) for part in tensorrt.__version__.split(".")[:2]) >= LEAST


class OnnxClassifier:
    """The engine of an ONNX file. ``predict`` takes pixels (uint8 [H, W, 3]) and gives probabilities [classes].

    Raises RuntimeError where it has not been built, cannot be read, or does not go from images of that shape to so many
    classes.
    """

    def __init__(self, onnx_path, image_shape, classes):
        import tensorrt

        path = engine_path(onnx_path)
        if not path.is_file():
            raise RuntimeError("{} is not built yet: README.md has the trtexec command.".format(path))
        self.executes = "TensorRT {}".format(tensorrt.__version__)
        self._runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RuntimeError("{} is no engine of TensorRT {}: build it again.".format(path, tensorrt.__version__))
        self._engine = engine
        self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        if sorted(names) != ["image", "probabilities"]:
            raise RuntimeError("{} has {} in the place of image and probabilities.".format(path, ", ".join(names)))
        found = [tuple(engine.get_tensor_shape(name))[1:] for name in ("image", "probabilities")]
        if found != [tuple(image_shape), (classes,)]:
            raise RuntimeError("{} is another model's: build it again from {}.".format(path, onnx_path.name))
        self._cuda = Cuda()
        shape = (1, *image_shape)
        self._context.set_input_shape("image", shape)
        self._image = np.empty(shape, np.float32)
        self._probabilities = np.empty(tuple(self._context.get_tensor_shape("probabilities")), np.float32)
        self._buffers = {}
        for name, array in (("image", self._image), ("probabilities", self._probabilities)):
            self._buffers[name] = self._cuda.allocate(array.nbytes)
            self._context.set_tensor_address(name, self._buffers[name])

    def predict(self, pixels):
        self._image[0] = pixels
        self._cuda.copy(self._buffers["image"], self._image.ctypes.data, self._image.nbytes, TO_DEVICE)
        if not self._context.execute_async_v3(0):
            raise RuntimeError("TensorRT could not run the engine.")
        self._cuda.synchronize()
        found = self._probabilities
        self._cuda.copy(found.ctypes.data, self._buffers["probabilities"], found.nbytes, TO_HOST)
        return found[0].copy()


class Cuda:
    """The four functions of the CUDA runtime that an engine needs."""

    def __init__(self):
        name = ctypes.util.find_library("cudart") or "libcudart.so"
        self._library = ctypes.CDLL(name)
        self._library.cudaMalloc.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t]
        self._library.cudaMemcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def allocate(self, count):
        pointer = ctypes.c_void_p()
        self._checked(self._library.cudaMalloc(ctypes.byref(pointer), count))
        return pointer.value

    def copy(self, target, source, count, kind):
        self._checked(self._library.cudaMemcpy(target, source, count, kind))

    def synchronize(self):
        self._checked(self._library.cudaDeviceSynchronize())

    @staticmethod
    def _checked(status):
        if status:
            raise RuntimeError("The CUDA runtime failed with {}.".format(status))


def engine_path(onnx_path):
    """Where trtexec puts the engine: NAME-fp16.engine for NAME-float32.onnx."""
    stem = onnx_path.stem
    if stem.endswith("-float32"):
        stem = stem[: -len("-float32")]
    return onnx_path.with_name(stem + "-fp16.engine")
