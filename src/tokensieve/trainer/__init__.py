"""Stage 8, fit: one Lightning trainer for every arm, on one device or many, resumable at any step."""

from tokensieve.trainer.checkpoint import LAST_CHECKPOINT, make_whole
from tokensieve.trainer.devices import count_devices, pick_device, pick_precision, select_device
from tokensieve.trainer.loop import fit
from tokensieve.trainer.result import CURVE_FILE, read_curve

__all__ = [
    "CURVE_FILE",
    "LAST_CHECKPOINT",
    "count_devices",
    "fit",
    "make_whole",
    "pick_device",
    "pick_precision",
    "read_curve",
    "select_device",
]
