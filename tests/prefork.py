"""Runs scripts one after the other, each in a fork that has TensorFlow already.

A line of JSON on standard input names a script, its arguments, its folder and
the files that take what it prints; a line on standard output gives its process
and, once it has ended, another its exit code. The first line says "ready".
"""

import json
import os
import runpy
import sys

# As the scripts set it, before TensorFlow is first imported.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import scipy.ndimage  # noqa: E402, F401
import tensorflow  # noqa: E402

# Few steps do not earn the seconds in which it would rewrite their graph.
tensorflow.config.optimizer.set_experimental_options(
    {"disable_meta_optimizer": True}
)

print("ready", flush=True)
for line in sys.stdin:
    told = json.loads(line)
    # A process that has no context of TensorFlow yet may fork.
    child = os.fork()
    if child == 0:
        break
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

os.chdir(told["cwd"])
for number, path in enumerate((os.devnull, told["stdout"], told["stderr"])):
    os.dup2(os.open(path, os.O_RDWR), number)
sys.argv = [told["script"], *told["arguments"]]
runpy.run_path(told["script"], run_name="__main__")
