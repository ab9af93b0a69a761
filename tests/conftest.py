"""Tests run on the CPU, for which bits are promised, also where there is a GPU."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
