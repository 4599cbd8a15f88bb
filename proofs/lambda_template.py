"""Checks template.yaml with AWS' own tools, which are too large for requirements-dev.txt: cfn-lint, and the translation
of a SAM template into CloudFormation, which is linted as well.

.venv/bin/python proofs/lambda_template.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent / "template.yaml"
TOOLS = ("cfn-lint==1.58.0", "aws-sam-translator==1.115.0", "boto3==1.44.8")
TRANSLATE = """
import json, sys
from boto3 import Session
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

template = yaml_parse(open(sys.argv[1]).read())
template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
basic = "AWSLambdaBasicExecutionRole"
policies = {basic: f"arn:aws:iam::aws:policy/service-role/{basic}"}
translator = Translator(policies, Parser(), boto_session=Session(region_name="eu-west-1"))
json.dump(translator.translate(template, {}), sys.stdout)
"""
# What a deploy makes: a resource and what must be in it.
WANTED = {
    "HttpUrl": '"AuthType": "NONE"',
    "HttpUrlPublicPermissions": '"lambda:InvokeFunctionUrl"',  # a URL made since October 2025 needs both
    "HttpURLInvokeAllowPublicAccess": '"InvokedViaFunctionUrl": true',
    "DeliverEachMinute": '"RetryPolicy"',
    "DeliverEventInvokeConfig": '"MaximumRetryAttempts": 0',
    "Log": '"RetentionInDays"',
}


def main() -> int:
    """Runs the tools; the exit status is 1 when one finds a fault, or a resource is missing."""
    with tempfile.TemporaryDirectory(prefix="relay-template-") as folder:
        venv.create(folder, with_pip=True)
        tools = Path(folder) / "bin"
        _run(str(tools / "pip"), "install", "--quiet", *TOOLS)
        print(_run(str(tools / "cfn-lint"), str(TEMPLATE)) or "cfn-lint: template.yaml has no fault")
        translated = _run(str(tools / "python"), "-c", TRANSLATE, str(TEMPLATE))
        (Path(folder) / "translated.json").write_text(translated)
        print(_run(str(tools / "cfn-lint"), f"{folder}/translated.json") or "cfn-lint: nor has its translation")
    made = json.loads(translated)["Resources"]
    missing = [name for name, part in WANTED.items() if part not in json.dumps(made.get(name))]
    print(f"{len(made)} resources: {', '.join(made)}; missing: {', '.join(missing) or 'none'}")
    return 1 if missing else 0


def _run(*command: str) -> str:
    """What a command prints; ends this program when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
