"""A stand-in for the program `sparrowdo`, which is in no package mirror: the same commands over ssh, the same words.

What it takes from the real one (0.1.54): the three commands and their options, `.sparrowdo` in the working folder, the
scripts that it makes, its last words, its exit codes. Its bootstrap puts a `raku` into the guest that obeys the few
statements that the tests' sparrowfiles are made of.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

RAKU = r"""#!/bin/sh
# Stands for Rakudo with Sparrow6.
case "$1" in -MSparrow6::Task::Repository) echo "index updated"; exit 0 ;; esac
last=
finish() { status=$?; [ -z "$last" ] || echo "$last"; exit $status; }
trap finish EXIT
last=$(sed -n 's/^END { say q\[\(.*\)\]; };.*/\1/p' "$2")
while read -r line; do
    text=$(printf '%s' "$line" | sed -n 's/^[a-z]* "\(.*\)";$/\1/p' |
        sed 's/" ~ \$\*RAKU.compiler.version ~ "/v2022.12/; s/" ~ \$sparrow6 ~ "/0.0.94/')
    case "$line" in
        'say "'*) printf '%s\n' "$text" ;;
        'bash "'*) sh -c "$text" || exit 1 ;;
        'exit '*) code=${line#exit }; exit "${code%;}" ;;
        '') ;;
    esac
done <<EOT
$(sed 's/^END { [^}]* };[ ]*//' "$2")
EOT
"""

BOOTSTRAP = f"""\
set -e
test -e /etc/golden-release  # never on a machine of anybody's
echo "start bootstrap"
. /etc/os-release
case "$ID" in
    alma*) printf 'Your OS (%s) is not supported\\n' "$ID"; exit 1 ;;
esac
cat > /usr/local/bin/raku <<'EOF'
{RAKU}EOF
chmod 755 /usr/local/bin/raku
"""

SSH = (
    "-q -o ConnectionAttempts=1 -o ConnectTimeout=5 -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no"
    " -o ServerAliveInterval=300 -o ServerAliveCountMax=2"
)


def main() -> None:
    options = arguments()
    here = Path(".sparrowdo")
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    sparrowfile = Path(options.sparrowfile or "sparrowfile")
    if sparrowfile.is_file():
        shutil.copy(sparrowfile, here / "sparrowfile")
    (here / "bootstrap.sh").write_text(BOOTSTRAP)
    (here / "sparrowrun.sh").write_text(run_script(options))
    for name in ("tasks", "files", "templates", "data", "conf", "config.raku"):
        if Path(name).exists():
            subprocess.run(["cp", "-r", name, here], check=True)
    if Path(options.host).is_file():
        print(f"queue build for [worker_01] on [{options.host}]")
        return
    login = f"-p {options.ssh_port} -i {options.ssh_private_key} {options.ssh_user}@{options.host}"
    spawn(f"ssh {SSH} -tt {login} 'rm -rf .sparrowdo/env/default && mkdir -p .sparrowdo/env/default'")
    copy = f"scp -r {SSH} -P {options.ssh_port} -i {options.ssh_private_key}"
    target = f"{options.ssh_user}@{options.host}:.sparrowdo/env/default/"
    spawn(f"{copy} .sparrowdo/ {options.secretsfile or ''} {target}")
    if options.sync:
        spawn(f"{copy} {options.sync} {target}.sparrowdo/")
    if options.bootstrap:
        spawn(f"ssh {SSH} -tt {login} sudo --login sh \\$PWD/.sparrowdo/env/default/.sparrowdo/bootstrap.sh v prefix")
        if not sparrowfile.exists():
            print("Congratulations!\nYour system is ready to be configured automatically using Sparrowdo!")
            return
    if not sparrowfile.exists():
        sys.exit(f"sparrowfile {sparrowfile} does not exit")
    spawn(f"ssh {SSH} -tt {login} bash --login .sparrowdo/env/default/.sparrowdo/sparrowrun.sh")


def arguments() -> argparse.Namespace:
    """As the real one: `--option=value` alone; anything else prints the usage and ends with 2."""
    if any(not word.startswith("--") for word in sys.argv[1:]):
        print("Usage:\n  sparrowdo [--host=<Str>] …", file=sys.stderr)
        sys.exit(2)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("sparrowfile", "secretsfile", "tags", "repo", "ssh_private_key", "sync"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--ssh_port", type=int, default=22)
    parser.add_argument("--ssh_user", required=True)
    for name in ("bootstrap", "no_sudo", "no_index_update"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


def run_script(options: argparse.Namespace) -> str:
    sudo = "" if options.no_sudo else "sudo env PATH=$PATH SP6_TAGS=$SP6_TAGS "
    lines = ["set -e", "cd .sparrowdo/env/default/.sparrowdo", f"export SP6_TAGS='{options.tags or ''}'"]
    lines.append("export SP6_PREFIX=.sparrowdo/default")
    if options.sync:
        lines.append(f"export SP6_REPO=file://$PWD/{Path(options.sync).name}")
    if options.secretsfile:
        name = Path(options.secretsfile).name
        lines.append(f"mv ../{name} secret.env; set -a; . ./secret.env; set +a; rm secret.env")
    if not options.no_index_update:
        lines.append(f"{sudo}raku -MSparrow6::Task::Repository -e Sparrow6::Task::Repository::Api.new.index-update")
    return "\n".join([*lines, f"{sudo}raku -MSparrow6::DSL sparrowfile"]) + "\n"


def spawn(command: str) -> None:
    """By a shell, as the real one does it; a failure is told in Rakudo's words."""
    sys.stdout.flush()
    status = subprocess.run(["sh", "-c", command], check=False).returncode
    if status:
        words = f"The spawned command '{command}' exited unsuccessfully (exit code: {status}, signal: 0)"
        print(f"{words}\n  in block <unit> at sparrowdo line 1", file=sys.stderr)
        sys.exit(1)


def install(folder: Path) -> Path:
    """The program, in a folder to be put on PATH."""
    path = folder / "sparrowdo"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    path.chmod(0o755)
    return path


if __name__ == "__main__":
    main()
