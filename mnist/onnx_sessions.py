"""ONNX Runtime sessions."""

from typing import Any


def create(content: bytes, threads: int) -> Any:
    """Return an ``onnxruntime.InferenceSession`` that runs an ONNX file on the CPU.

    ONNX Runtime's exceptions have no common base class: creating a session, and running it, can raise any exception.

    Args:
        content: content of the ONNX file.
        threads: number of threads.

    Raises:
        ImportError: if ONNX Runtime is missing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # print only fatal errors, because all other errors also raise exceptions
    options.intra_op_num_threads = threads
    # Threads that wait in a busy loop would slow down PyTorch and other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # With enable_fallback, ONNX Runtime would print to stdout if the names in a file are not valid UTF-8.
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
