"""Tests run on the CPU, for which bits are promised, also where there is a GPU; and Ctrl-C reaches their processes."""

import os
import signal

os.environ["CUDA_VISIBLE_DEVICES"] = ""
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
