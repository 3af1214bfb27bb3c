"""What a node runs for a task: the batch script, and beside it the command of the user.

The batch script is POSIX shell, because nothing of Holdfast is installed on the nodes. It
holds no value of the user's: those stand in the command's file, which only the user can read,
so nothing of them comes into Slurm's own files, and none of them can upset sbatch.

What the script notes down in the runner's directory, N being Slurm's count of restarts:
``owner`` (a link to the id of the job that may run the command: one job, whatever was
submitted twice), ``start.N`` (when, where), ``exit.N`` (exit status, whether the job was asked
to end before, when; written in one step) and ``time_limit_near``.

A command that ended by itself is never run again, also when Slurm requeues the job. One that
Slurm was ending at that moment is: its exit status was Slurm's doing.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Final

from holdfast.errors import StartFailed
from holdfast.runners.runner import Command, Place

MOUNT_POINT: Final = "/job"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

MEMBERS: Final = r"""
# The job's processes on this node: those that Slurm knows of, and those that carry its number.
members() {
    {
        scontrol listpids "$SLURM_JOB_ID" 2>/dev/null | while read -r pid job rest; do
            [ "$job" = "$SLURM_JOB_ID" ] && echo "$pid"
        done
        grep -lsz "^SLURM_JOB_ID=$SLURM_JOB_ID\$" /proc/[0-9]*/environ | cut -d / -f 3
    } | sort -u
}
"""
"""A function of the shell; a process that became a daemon is no child of the job's any more."""

_BATCH: Final = """\
#!/bin/sh
# Runs the command of one task and notes down how it went.
cd {control} || exit 1
run=${{SLURM_RESTART_COUNT:-0}}

# Submitted twice, because the answer to the first was lost? One of the two does it.
ln -s "$SLURM_JOB_ID" owner 2>/dev/null
[ "$(readlink owner)" = "$SLURM_JOB_ID" ] || exit 0

# Requeued, though the command had ended by itself: it is not run again.
for earlier in exit.*; do
    [ -f "$earlier" ] && read -r code asked ended <"$earlier" && [ "$asked" = 0 ] && exit "$code"
done

{members}
# Slurm's own CONT reaches this process group; what left the group goes on with it.
tell() {{
    for each in $(members); do
        [ "$each" = $$ ] || kill -"$1" "$each" 2>/dev/null
    done
}}

rm -f time_limit_near
trap ': >time_limit_near' USR1
trap 'tell CONT' CONT
trap : TERM INT HUP USR2

printf '%s %s\\n' "$(date +%s)" "${{SLURMD_NODENAME:-$(uname -n)}}" >"start.$run.new"
mv -f "start.$run.new" "start.$run"

(
    # A trap, not 'ignore': the command would inherit that.
    asked=0
    trap 'asked=1' TERM
    trap : USR1 INT HUP USR2
    /bin/sh ./command >>{stdout} 2>>{stderr} </dev/null
    code=$?
    # A signal that ended the command may reach this shell a moment later.
    [ "$code" -lt 128 ] || sleep 1
    printf '%s %s %s\\n' "$code" "$asked" "$(date +%s)" >"exit.$run.new"
    mv -f "exit.$run.new" "exit.$run"
    exit "$code"
) &
recorder=$!
# A signal ends the wait, not the recorder.
while kill -0 "$recorder" 2>/dev/null; do
    wait "$recorder"
done
# Not every cluster ends what the command has left behind.
tell KILL
[ -f "exit.$run" ] && read -r code asked ended <"exit.$run" && exit "$code"
exit 1
"""

_COMMAND: Final = """\
job={job}
point={point}
file={file}

# With a directory {point} on the node, and leave to mount: the job's own one is seen there.
if [ "$1" != inside ] && [ -d "$point" ] && [ "$job" != "$point" ]; then
    bind='mount --bind "$1" "$2" || exit 1; shift 2; exec "$@"'
    if [ "$(id -u)" = 0 ]; then
        set -- unshare --mount /bin/sh -c "$bind" sh "$job" "$point"
    else
        # Root in a namespace of its own, for the mount; then the same user again.
        set -- unshare --user --map-root-user --mount /bin/sh -c "$bind" sh "$job" "$point" \\
            unshare --user --map-user="$(id -u)" --map-group="$(id -g)"
    fi
    "$@" true 2>/dev/null && exec "$@" /bin/sh "$file" inside
fi
HOLDFAST_JOB=$job
[ "$1" != inside ] || HOLDFAST_JOB=$point
set --
{exports}
export HOLDFAST_JOB
cd {workdir} || exit 126
exec {argv}
"""


def batch_script(place: Place) -> str:
    """What sbatch is given."""
    return _BATCH.format(
        members=MEMBERS,
        control=_quoted(place.control),
        stdout=_quoted(place.stdout),
        stderr=_quoted(place.stderr),
    )


def command_script(place: Place, command: Command, mount_point: str = MOUNT_POINT) -> str:
    """The file ``command`` in the runner's directory; it holds the user's own values.

    Raises `StartFailed` for what no batch job can do.
    """
    _check(command)
    return _COMMAND.format(
        job=_quoted(place.job),
        point=_quoted(mount_point),
        file=_quoted(place.control / "command"),
        exports="\n".join(
            f"export {name}={_quoted(value)}"
            for name, value in sorted(command.environment.items())
            if name != "HOLDFAST_JOB"
        ),
        workdir=_workdir(command.workdir),
        argv=" ".join(_quoted(each) for each in command.argv),
    )


def _check(command: Command) -> None:
    if command.image is not None:
        raise StartFailed(
            "A Slurm job runs a command of its nodes, not an image; use a profile with containers "
            "on a host that has them."
        )
    if not command.argv:
        raise StartFailed("There is no command to run; give the task one.")
    if command.user:
        raise StartFailed(
            f"A Slurm job runs as the agent's own user, not as {command.user}; leave the user out."
        )
    for name in command.environment:
        if not _NAME.fullmatch(name):
            raise StartFailed(
                f"{name!r} cannot be the name of a variable; use letters, digits and underscores."
            )


def _workdir(workdir: str | None) -> str:
    """A word of the shell: the directory, below ``$HOLDFAST_JOB`` unless it is elsewhere."""
    if not workdir:
        return '"$HOLDFAST_JOB"'
    path = PurePosixPath(workdir)
    if path.is_absolute() and path.is_relative_to(MOUNT_POINT):
        path = path.relative_to(MOUNT_POINT)
    return _quoted(path) if path.is_absolute() else f'"$HOLDFAST_JOB"/{_quoted(path)}'


def _quoted(value: Path | PurePosixPath | str) -> str:
    text = str(value)
    if "\0" in text:
        raise StartFailed("A zero byte cannot be part of a command or of its environment.")
    return shlex.quote(text)
