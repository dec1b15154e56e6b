"Everything about the package stands in settings.ini; this hands it to setuptools."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
config = config["DEFAULT"]
package = config["lib_path"]
url = f"https://github.com/{config['user']}/{config['repo']}"
suffix = "_requirements"

setup(
    name=config["lib_name"],
    version=config["version"],
    description=config["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=config["author"],
    license="Apache-2.0",
    keywords=config["keywords"],
    url=url,
    project_urls={"Documentation": f"https://{config['user']}.github.io/{config['repo']}"},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Natural Language :: English",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
    ],
    python_requires=f">={config['min_python']}",
    packages=find_packages(include=[package, f"{package}.*"]),
    package_data={
        package: [
            "py.typed",
            "**/*.json",
            "**/*.jsonl",
            "**/*.txt",
            "**/*.safetensors",
            "**/*.jinja",
        ]
    },
    install_requires=config["requirements"].split(),
    extras_require={
        k[: -len(suffix)]: v.split() for k, v in config.items() if k.endswith(suffix)
    },
    entry_points={
        "console_scripts": config["console_scripts"].split(),
        # how nbdev finds the page of a name in backticks
        "nbdev": [f"{package}={package}._modidx:d"],
    },
)
