"""Our runtime, `Recognizer.recognize` in fp32, bf16 or int8: from samples to text, with batching and decoding."""

from collections.abc import Sequence

from . import Logits, Run, Setting, Waveform


def convert(setting: Setting) -> None:
    """Write the int8 model file with scheme `full`; the other precisions load the floating-point file."""
    from ...model_file.storage import quantize_file

    if setting.precision == "int8":
        quantize_file(setting.model, setting.folder / "int8.safetensors")


def load(setting: Setting) -> Run:
    """Load the recognizer; the returned function gives its log-probabilities."""
    from ...data.audio import SAMPLE_RATE
    from ...errors import InputError
    from ...runtime.recognizer import Recognizer

    path = setting.folder / "int8.safetensors" if setting.precision == "int8" else setting.model
    recognizer = Recognizer.load(path, precision=setting.precision, threads=setting.threads)

    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        results = []
        for result in recognizer.recognize(waveforms, SAMPLE_RATE, batch_size=len(waveforms), point=setting.point):
            if isinstance(result, InputError):
                raise result
            results.append(result.log_probs.numpy())
        return results

    return run
