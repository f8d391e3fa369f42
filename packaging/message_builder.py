"""Build an importable Python package from a folder of .msg files, with the rosidl generators and a C++ compiler.

This is what `rosidl_generate_interfaces()` does for Python, without CMake: the generators write Python and C sources,
and one extension, `<package>_s__rosidl_typesupport_c`, holds the conversion and the type supports of C for Fast CDR
(rmw_fastrtps_cpp, rmw_zenoh_cpp) and introspection (the other middlewares) together.

setup.py uses the `BuildMessages` command. The work itself runs in a child process (this file as a script), because
pip's build isolation hides the packages of the interpreter that it installs for, and with them the generators.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")
LIBRARIES = (
    *TYPE_SUPPORTS,
    "rosidl_typesupport_fastrtps_cpp",
    "rosidl_typesupport_c",
    "rosidl_runtime_c",
    "rmw",
    "rcutils",
    "fastcdr",
)

# What rosidl_typesupport_c generates looks for one shared library a type support. Ours are in this very extension.
HANDLE = """
{declarations}

static const rosidl_message_type_support_t * {type}__find(
  const rosidl_message_type_support_t * handle, const char * identifier)
{{
  const rosidl_message_type_support_t * known[] = {{handle, {handles}}};
  for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); ++i) {{
    if (strcmp(known[i]->typesupport_identifier, identifier) == 0) {{
      return known[i];
    }}
  }}
  return NULL;
}}

const rosidl_message_type_support_t *
ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME(rosidl_typesupport_c, {package}, msg, {name})(void)
{{
  static rosidl_message_type_support_t handle = {{0}};
  handle.typesupport_identifier = rosidl_typesupport_c__typesupport_identifier;
  handle.func = {type}__find;
  handle.get_type_hash_func = {type}__get_type_hash;
  handle.get_type_description_func = {type}__get_type_description;
  handle.get_type_description_sources_func = {type}__get_type_description_sources;
  return &handle;
}}
"""


class MessageBuildError(RuntimeError):
    """The messages cannot be built; the text says why."""


def ros_prefixes() -> list[Path]:
    """Return the install prefixes to look in: those of a sourced ROS, then the interpreter's own (ROS wheels)."""
    sourced = [Path(entry) for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    return [*sourced, Path(sys.prefix)]


def find_share(package: str) -> Path:
    """Return the share folder of an installed ROS package."""
    for prefix in ros_prefixes():
        share = prefix / "share" / package
        if (share / "package.xml").is_file():
            return share
    raise MessageBuildError(f"the ROS package '{package}' is neither in a sourced ROS nor in {sys.prefix}")


def why_not_buildable() -> str | None:
    """Return the reason why messages cannot be built for this interpreter, or None when they can."""
    try:
        find_share("rosidl_generator_py")
    except MessageBuildError as error:
        return str(error)
    try:
        find_share("rosidl_generator_type_description")
    except MessageBuildError:
        return "this ROS is older than Jazzy: build with colcon"
    return None


def build_messages(package: str, messages: Path, output: Path) -> None:
    """Write the Python package of the .msg files in `messages` below `output`, in a child of this interpreter."""
    with tempfile.TemporaryDirectory(prefix=f"{package}-messages-") as work:
        command = [sys.executable, os.path.abspath(__file__), package, str(messages), str(output), work]
        child = subprocess.run(command, env=_child_environment(), capture_output=True, text=True)
    if child.returncode:
        raise MessageBuildError(f"building the messages of '{package}' failed:\n{child.stdout}{child.stderr}")


def _child_environment() -> dict[str, str]:
    """Return the environment without pip's isolation, which lives in PYTHONPATH, but with the sourced ROS."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    layouts = (f"lib/{python}/site-packages", f"local/lib/{python}/dist-packages")
    folders = [prefix / layout for prefix in ros_prefixes()[:-1] for layout in layouts]
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(folder) for folder in folders if folder.is_dir())}


class BuildMessages(build_ext):
    """`build_ext` for distributions whose only extension is the type support of their messages."""

    def run(self) -> None:
        """Build; and install the data files of an editable install, which setuptools leaves out."""
        super().run()
        if self.editable_mode:
            self.run_command("install_data")

    def build_extension(self, ext: Extension) -> None:
        """Generate and compile in a scratch folder, and leave only what is to be installed."""
        # An editable install keeps the sources where they are, but the messages are built for one interpreter and
        # belong to it: they go into the editable wheel, and `extend_path` in our `__init__.py` joins the two folders.
        lib = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        build_messages(_package_of(ext), Path(ext.sources[0]).resolve().parent, Path(lib).resolve())

    def copy_extensions_to_source(self) -> None:
        """Leave the source tree alone, see `build_extension`."""

    def get_output_mapping(self) -> dict[str, str]:
        """Return no pairs of built and in-place file: nothing is built in place."""
        return {}


def message_extension(package: str, messages: Path) -> Extension:
    """Describe the extension of a message package to setuptools; `BuildMessages` builds it."""
    sources = [os.path.relpath(path) for path in sorted(messages.glob("*.msg"))]
    return Extension(f"{package}.{_module_name(package)}", sources)


def _package_of(extension: Extension) -> str:
    return extension.name.partition(".")[0]


def _module_name(package: str) -> str:
    return f"{package}_s__rosidl_typesupport_c"  # what rosidl_generator_py.import_type_support looks for


# ---- From here on: in the child process, where the generators can be imported. ----


def _build(package: str, messages: Path, output: Path, work: Path) -> None:
    files = sorted(messages.resolve().glob("*.msg"))
    _generate(package, files, work)
    target = output / package
    (target / "msg").mkdir(parents=True, exist_ok=True)
    _compile(package, files, work, target / f"{_module_name(package)}{sysconfig.get_config_var('EXT_SUFFIX')}")
    for module in (work / "rosidl_generator_py" / package / "msg").glob("*.py"):
        (target / "msg" / module.name).write_bytes(module.read_bytes())


def _generate(package: str, files: list[Path], work: Path) -> None:
    """Write all sources, each generator's to `work/<generator>/<package>/msg`."""
    from rosidl_adapter import convert_to_idl
    from rosidl_generator_c import generate_c
    from rosidl_generator_py import generate_py
    from rosidl_generator_type_description import generate_type_hash
    from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
    from rosidl_typesupport_introspection_c import generate_c as generate_typesupport_introspection_c

    idl = work / "idl"
    for file in files:
        convert_to_idl(file.parent.parent, package, Path(file.parent.name) / file.name, idl)

    def arguments(generator: str) -> str:
        output = work / generator / package
        (output / "msg" / "detail").mkdir(parents=True)
        if (header := find_share(generator) / "resource" / f"{generator}__visibility_control.h.in").exists():
            text = header.read_text().replace("@PROJECT_NAME_UPPER@", package.upper())
            (output / "msg" / header.stem).write_text(text.replace("@PROJECT_NAME@", package))
        path = work / f"{generator}.json"
        values = {
            "package_name": package,
            "output_dir": str(output),
            "template_dir": str(find_share(generator) / "resource"),
            "idl_tuples": [f"{idl}:msg/{file.stem}.idl" for file in files],
            "include_paths": [f"{share.name}:{share}" for share in _interface_packages()],
            "ros_interface_dependencies": [],
            "ros_interface_files": [str(file) for file in files],
            "target_dependencies": [],
            "type_description_tuples": [f"msg/{file.stem}.idl:{hashes}/{file.stem}.json" for file in files],
        }
        path.write_text(json.dumps(values))
        return str(path)

    hashes = work / "rosidl_generator_type_description" / package / "msg"
    generate_type_hash(arguments("rosidl_generator_type_description"))
    generate_c(arguments("rosidl_generator_c"))
    generate_typesupport_fastrtps_c(arguments("rosidl_typesupport_fastrtps_c"))
    generate_typesupport_introspection_c(arguments("rosidl_typesupport_introspection_c"))
    generate_py(arguments("rosidl_generator_py"), ["rosidl_typesupport_c"])


def _interface_packages() -> list[Path]:
    """Return the share folder of every installed package with type descriptions, nearest prefix last."""
    indexes = [prefix / "share/ament_index/resource_index/rosidl_interfaces" for prefix in reversed(ros_prefixes())]
    return [index.parents[2] / marker.name for index in indexes for marker in sorted(index.glob("*"))]


def _compile(package: str, files: list[Path], work: Path, library: Path) -> None:
    """Compile in few translation units, because reading the headers is most of the work."""
    import numpy as np

    # The descriptions of two messages define the same static names, so each is a unit of its own.
    descriptions = sorted(work.glob("**/*__description.c"))
    c_sources = sorted({*work.glob("**/*.c")} - {*descriptions})
    headers = ["<string.h>", '"rosidl_typesupport_c/identifier.h"', *(f'"{source}"' for source in c_sources)]
    c_unit, cpp_unit = work / "all.c", work / "all.cpp"
    c_unit.write_text(_includes(headers) + "".join(_handle(package, file.stem) for file in files))
    cpp_unit.write_text(_includes(f'"{source}"' for source in sorted(work.glob("**/*.cpp"))))

    prefixes = ros_prefixes()
    includes = [*work.glob("rosidl_*/"), Path(sysconfig.get_path("include")), Path(np.get_include())]
    # ROS puts the headers of a package either in include/ or in include/<package>/.
    includes += [path for prefix in prefixes for path in (prefix / "include", *sorted((prefix / "include").glob("*/")))]
    dependencies = sorted({share.name for share in _interface_packages()} & _included_packages(work) - {package})
    libraries = [f"{name}__{kind}" for name in dependencies for kind in (*TYPE_SUPPORTS, "rosidl_generator_c")]
    libraries += [f"{name}__rosidl_generator_py" for name in dependencies]

    command = [*shlex.split(os.environ.get("CXX", "c++")), "-shared", "-fPIC", "-O1", "-DNDEBUG"]
    command += ["-Werror=implicit-function-declaration"]  # as int, it would cut a pointer in half
    command += [f"-I{path}" for path in includes if path.is_dir()]
    command += ["-xc", str(c_unit), *map(str, descriptions), "-xc++", "-std=c++17", str(cpp_unit), "-xnone"]
    command += ["-o", str(library), *(f"-L{prefix / 'lib'}" for prefix in prefixes)]
    command += [f"-l{name}" for name in (*libraries, *LIBRARIES)]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError as error:
        raise MessageBuildError(f"no C++ compiler: {error}") from error


def _includes(names: Iterable[str]) -> str:
    return "".join(f"#include {name}\n" for name in names)


def _handle(package: str, name: str) -> str:
    symbol = "ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME({}, {}, msg, {})"
    symbols = [symbol.format(support, package, name) for support in TYPE_SUPPORTS]
    return HANDLE.format(
        declarations="\n".join(f"const rosidl_message_type_support_t * {symbol}(void);" for symbol in symbols),
        handles=", ".join(f"{symbol}()" for symbol in symbols),
        type=f"{package}__msg__{name}",
        package=package,
        name=name,
    )


def _included_packages(folder: Path) -> set[str]:
    """Return the first path element of every include in the generated sources: the packages of nested messages."""
    lines = [line for path in folder.glob("**/*.[ch]*") for line in path.read_text().splitlines()]
    return {line.split('"')[1].partition("/")[0] for line in lines if line.startswith('#include "')}


def _main() -> None:
    parser = argparse.ArgumentParser(description="Build the Python package of a folder of .msg files.")
    parser.add_argument("package")
    parser.add_argument("messages", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("work", type=Path)
    _build(**vars(parser.parse_args()))


if __name__ == "__main__":
    _main()
