"""What must be set before NumPy, torch and Triton start.

Two test processes share the cores: one thread each. Without a GPU, Triton interprets its kernels.
A property is not judged by its time: a deadline of hypothesis would measure what else runs.
"""

import os
import shutil

from hypothesis import settings

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if not shutil.which("nvidia-smi"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
settings.register_profile("l2m", deadline=None)
settings.load_profile("l2m")
