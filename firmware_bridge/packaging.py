"""A generated folder as the package people use: plain C with CMake, a Zephyr module, an Arduino library; with the link.

Pure: {relative path: text} in and out, to be written by ``writing``. What cannot be built without its own tool chain
(Zephyr's west, the Arduino IDE) is checked in the tests as far as plain CMake, kconfiglib and the compilers go.
"""

from __future__ import annotations

import re
from typing import Mapping

from firmware_bridge import packaging_text as text
from firmware_bridge.board import FIRMWARE, PORTS
from firmware_bridge.graph import BridgeError

KINDS = ("plain", "zephyr", "arduino")
LINK_FILES = ("link.c", "link.h", "link_serve.c", "link_serve.h", "link_net.c", "link_net.h")

Files = dict[str, str]


def package_files(files: Mapping[str, str], kind: str, *, name: str = "net", link: bool = False) -> Files:
    """Return ``files`` (as from ``project.project_files``) as a package.

    Args:
        kind: ``plain`` leaves the folder as it is; ``zephyr`` adds a module description, Kconfig, CMake and samples;
            ``arduino`` moves the C to src/ and adds library.properties and examples.
        name: what ``files`` were generated under.
        link: add the framed link of ``SPEC.md``, so that ``firmware-bridge infer`` can talk to the device.

    Raises:
        BridgeError: ``package-kind``.
    """
    makers = {"plain": _plain, "zephyr": _zephyr, "arduino": _arduino}
    if kind not in makers:
        raise BridgeError(
            f"package: expected one of {', '.join(KINDS)}; got {kind[:40]!r}", code="package-kind"
        )
    return makers[kind](dict(files), name, link)


def _plain(files: Files, name: str, link: bool) -> Files:
    if not link:
        return files
    files |= _under("link", {**_link(files, name), "link_main.c": _firmware("link_main.c")})
    files["link/port_host.c"] = (PORTS / "host" / "port.c").read_text(encoding="utf-8")
    files["CMakeLists.txt"] += _fill(text.CMAKE_LINK, name)
    files["README.md"] += _fill(text.README_LINK, name)
    return files


def _zephyr(files: Files, name: str, link: bool) -> Files:
    sources = _sources(files, name)
    if link:
        files |= _under("link", _link(files, name))
    linked = ["link/link.c", "link/link_serve.c", "link/link_net.c"] if link else []
    files["zephyr/module.yml"] = _fill(text.ZEPHYR_MODULE, name)
    files["zephyr/Kconfig"] = _fill(text.ZEPHYR_KCONFIG + (text.ZEPHYR_KCONFIG_LINK if link else ""), name)
    files["zephyr/CMakeLists.txt"] = _fill(
        text.ZEPHYR_CMAKE + (text.ZEPHYR_CMAKE_LINK if link else "") + "endif()\n",
        name,
        sources=_lines("../", sources),
        linked=_lines("../", linked),
    )
    files |= _sample(name, "selftest", "", text.ZEPHYR_SELFTEST)
    if link:
        files |= _sample(name, "link", _fill("CONFIG_EDGE_DERM_@NAME@_LINK=y\n", name), text.ZEPHYR_LINK)
    files["README.md"] += _fill(text.README_ZEPHYR, name)
    return files


def _sample(name: str, sample: str, config: str, main: str) -> Files:
    folder = f"samples/{sample}"
    return {
        f"{folder}/CMakeLists.txt": _fill(text.ZEPHYR_SAMPLE_CMAKE, name, sample=sample),
        f"{folder}/prj.conf": _fill(text.ZEPHYR_SAMPLE_CONF, name) + config,
        f"{folder}/src/main.c": _fill(main, name),
    }


def _arduino(files: Files, name: str, link: bool) -> Files:
    code = {
        path: content for path, content in files.items() if path.endswith((".c", ".h")) and path != "main.c"
    }
    if link:
        code |= _link(files, name)
    made = _under("src", code)
    made["library.properties"] = _fill(text.ARDUINO_PROPERTIES, name)
    made["keywords.txt"] = _fill(text.ARDUINO_KEYWORDS, name)
    made["examples/selftest/selftest.ino"] = _fill(text.ARDUINO_SELFTEST, name)
    if link:
        made["examples/link/link.ino"] = text.ARDUINO_LINK
    made["README.md"] = files["README.md"] + _fill(text.README_ARDUINO, name)
    return made


def _link(files: Mapping[str, str], name: str) -> Files:
    """Return the link's own files; a network of another name gets a net.h that calls it net."""
    made = {file: _firmware(file) for file in LINK_FILES}
    made["port.h"] = (PORTS / "port.h").read_text(encoding="utf-8")
    if name != "net":
        made["net.h"] = rename_header(files[f"{name}.h"], name)
    return made


def rename_header(header: str, name: str) -> str:
    """Return a net.h that gives every public name of NAME.h the prefix net."""
    upper = name.upper()
    macros = sorted(set(re.findall(rf"^#define {upper}_(\w+) ", header, re.MULTILINE)))
    types = sorted(set(re.findall(rf"^typedef \w+ {name}_(\w+);", header, re.MULTILINE)))
    functions = sorted(set(re.findall(rf"\b{name}_(\w+)\(", _without_comments(header))))
    lines = [
        f"/* {name}.h under the names that link_net.c uses. */",
        "#ifndef NET_AS_H",
        "#define NET_AS_H",
        "",
    ]
    lines += [f'#include "{name}.h"', ""]
    lines += [f"#define NET_{macro} {upper}_{macro}" for macro in macros]
    lines += [f"#define net_{word} {name}_{word}" for word in (*types, *functions)]
    return "\n".join([*lines, "", "#endif", ""])


def _without_comments(header: str) -> str:
    return re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)


def _firmware(file: str) -> str:
    return (FIRMWARE / file).read_text(encoding="utf-8")


def _sources(files: Mapping[str, str], name: str) -> list[str]:
    kept_out = ("main.c", f"{name}_selftest.c")
    return sorted(path for path in files if path.endswith(".c") and path not in kept_out and "/" not in path)


def _under(folder: str, files: Mapping[str, str]) -> Files:
    return {f"{folder}/{path}": content for path, content in files.items()}


def _lines(prefix: str, paths: list[str]) -> str:
    return "\n".join(f"    {prefix}{path}" for path in paths)


def _fill(template: str, name: str, **more: str) -> str:
    for key, value in {"name": name, "NAME": name.upper(), **more}.items():
        template = template.replace(f"@{key}@", value)
    return template
