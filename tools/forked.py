"""Kernels that are forked from a process in which the heavy libraries are loaded.

Importing torch, transformers and PEFT takes six seconds of a processor, which some seventy
notebooks would pay one after the other. Nothing has run in the process that is forked, so that
a kernel is as fresh as one that was started; only on Linux, elsewhere kernels are started.
"""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from unittest.mock import patch

from jupyter_client.launcher import launch_kernel

LOADED = [
    "torch",
    "transformers.trainer",
    "transformers.generation",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
    "bitsandbytes",
    "matplotlib",
    "pytest",
    "ipykernel.kernelapp",
]


def serve(arguments, folder, env, ready):
    "In the new process: become a kernel."
    os.setsid()  # signals for the kernel are for it alone
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = env.get("PYTHONPATH", "").split(os.pathsep)
    ready.send(True)
    import torch
    from ipykernel import kernelapp

    if "OMP_NUM_THREADS" in env:  # torch read it when it was loaded, perhaps before it was set
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))

    parent = f"--IPKernelApp.parent_handle={os.getppid()}"  # with which the kernel ends
    kernelapp.launch_new_instance([*arguments, parent])


class ForkedKernel:
    "A kernel's process, with the part of subprocess.Popen that Jupyter asks for."

    stdin = stdout = stderr = None

    def __init__(self, arguments, folder, env):
        context = multiprocessing.get_context("forkserver")
        here, there = context.Pipe()
        self.process = context.Process(target=serve, args=(arguments, folder, env, there))
        self.process.start()
        here.recv()  # it has a session of its own from now on
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.process.exitcode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def terminate(self):
        self.process.terminate()


def launch(command, cwd=None, env=None, **options):
    "Start the kernel that a command line names, by a fork where that can be."
    on_gpu = os.environ.get("CUDA_VISIBLE_DEVICES") != ""  # CUDA cannot be used after a fork
    on_gpu = on_gpu and os.path.exists("/dev/nvidia0")
    if sys.platform != "linux" or on_gpu or "ipykernel_launcher" not in command:
        return launch_kernel(command, cwd=cwd, env=env, **options)
    with patch.dict(os.environ, env, clear=True):
        multiprocessing.get_context("forkserver").set_forkserver_preload(LOADED)
        forkserver.ensure_running()
    return ForkedKernel(command[command.index("ipykernel_launcher") + 1 :], cwd, env)


def forked_kernels():
    "While it lasts, Jupyter starts its kernels so."
    return patch("jupyter_client.provisioning.local_provisioner.launch_kernel", launch)
