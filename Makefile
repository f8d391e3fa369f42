# Two commands: `make demo` and `make test`. Both first set up .venv, which takes about a minute once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-follow test lint clean

PYTHON ?= python3
# For the tests of the networks and their export; empty: those tests skip. Where a plain torch brings gigabytes of CUDA
# libraries, name a CPU build of it, or one that is there already.
TORCH ?= torch==2.13.0 safetensors onnx onnxscript
# Builds engines without a GPU. x86-64 only.
TENSORRT ?= $(if $(filter x86_64,$(shell uname -m)),tensorrt-rtx cuda-bindings)
SEQUENCE ?=
VIDEO ?=
INIT ?=
SEED ?= 0

PY := .venv/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
say = @echo "[setup] $(1)"

# Set by the ROS wheels of another environment from which make was started: its libraries are not for .venv.
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport LD_LIBRARY_PATH
endif

# A sourced ROS is used as it is; without one, ROS comes from wheels.
ROS := $(firstword $(wildcard $(addsuffix /share/rclpy,$(subst :, ,$(AMENT_PREFIX_PATH)))))
RUN := $(if $(ROS),source install/local_setup.bash && )$(PY)

SETUP_INPUTS := setup.py pyproject.toml package.xml CMakeLists.txt $(wildcard msg/*) $(shell find packaging -type f \
  -not -path '*/build/*' -not -path '*.egg-info/*' -not -path '*/__pycache__/*')

help:
	@echo "make demo    track a rendered clip with the real node and write demo_output/"
	@echo "             SEQUENCE=<folder in OTB layout>, or VIDEO=<file> INIT=x,y,w,h, for real footage"
	@echo "make demo-follow    a simulated camera follows a simulated person: real tracker, real follow-me node; SEED=<n>"
	@echo "make test    lint, then the whole test suite"
	@echo "make setup   only make .venv        make lint    only ruff"
	@echo "make clean   remove all that make made"
	@echo "PYTHON=<interpreter> chooses the Python (3.10 or newer) that .venv is made with."

setup: .venv/.ready

demo: .venv/.ready
	$(if $(and $(VIDEO),$(if $(INIT),,x)),$(error VIDEO needs INIT=x,y,w,h, the box of the target in its first frame))
	@$(RUN) -m ros2_tracker.ros.demo --output demo_output \
	  $(if $(SEQUENCE),--sequence '$(SEQUENCE)') $(if $(VIDEO),--video '$(VIDEO)' --init '$(INIT)')

demo-follow: .venv/.ready
	@$(RUN) -m examples.follow_me.simulation --output demo_output --seed $(SEED)

test: lint .venv/.networks
	@$(RUN) -m pytest

lint: .venv/.ready
	@$(PY) -m ruff check .

clean:
	rm -rf .venv build install log dist demo_output *.egg-info packaging/*/build packaging/*/*.egg-info

.venv/.networks: .venv/.ready
	$(call say,installing what the tests of the networks need: $(TORCH) $(TENSORRT))
	@$(if $(strip $(TORCH)$(TENSORRT)),$(PIP) install $(TORCH) $(TENSORRT))
	@touch $@

.venv/.ready: $(SETUP_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python 3.10 or newer is needed: make $(MAKECMDGOALS) PYTHON=<interpreter>"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing: apt install python3-venv"; exit 1; }
	@command -v c++ >/dev/null || { echo "A C++ compiler is needed for the messages: apt install g++"; exit 1; }
	@test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
	  || { echo "Python.h is needed for the messages: apt install python3-dev"; exit 1; }
	$(call say,making .venv with $$($(PYTHON) --version))
	@$(PYTHON) -m venv $(if $(ROS),--system-site-packages) .venv
ifdef ROS
# Not tried on a ROS from apt so far. Its compiled messages fix NumPy's major version. The messages come from colcon,
# as on a robot, for every type support; so pip is kept from seeing the generators.
	$(call say,using the ROS in $(ROS:/share/rclpy=); installing the Python libraries)
	@numpy="$$($(PYTHON) -c 'import numpy; print(int(numpy.__version__.split(".")[0]) + 1)')"; \
	  env -u AMENT_PREFIX_PATH $(PIP) install -e ".[test]" "numpy<$$numpy"
	$(call say,building the messages with colcon)
	@colcon build --packages-select ros2_tracker --cmake-args -DBUILD_TESTING=OFF
	@$(PYTHON) -c 'import vision_msgs.msg' 2>/dev/null || $(PIP) install --no-deps ./packaging/vision_msgs
else
	$(call say,installing the ROS 2 wheels and the Python libraries)
	@$(PIP) install "setuptools>=77" wheel
	@$(PIP) install --no-build-isolation -e ".[ros,test]" \
	  || { echo "No ROS is sourced, and its wheels (x86-64 Linux only) could not be installed."; exit 1; }
	$(call say,building the messages)
	@$(PIP) install --no-build-isolation --no-deps ./packaging/vision_msgs
# The first time, the generators came with the step before last; later, that step has built the messages already.
	@compgen -G '.venv/lib/python3*/site-packages/ros2_tracker/msg/__init__.py' >/dev/null \
	  || $(PIP) install --no-build-isolation --no-deps -e .
endif
	@touch $@
	$(call say,ready)
