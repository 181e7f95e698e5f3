# shellcheck shell=bash
# Sourced by the other scripts: where the repository is, which Python runs, how it is run. None of
# them may run a file of the current folder: Python looks for modules there first after "-m", "-c"
# and "-", unless it is told otherwise (-I, or $SAFE).
#
#   MINDSPORE_THOR_PYTHON   use this interpreter as it is; nothing is installed

REPO_ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)
VENV="$REPO_ROOT/.venv"
PYTHON=""
SAFE='import sys; sys.path[:] = [entry for entry in sys.path if entry]'

# MindSpore prints a screenful of warnings below level 3 (error).
export GLOG_v="${GLOG_v:-3}"

say() { printf '%s\n' "$*" >&2; }

# Prints an argument for a message: short and printable, whatever it is.
quoted() {
  local text
  printf -v text '%q' "$1"
  printf '%s' "${text:0:60}"
}

# Succeeds if this Python can run the package as it is. An exit code alone is not trusted: a pyenv
# shim exists for every version, installed or not.
is_ready() {
  "$1" - "$SAFE" >/dev/null 2>&1 <<'PY'
import sys
exec(sys.argv[1])
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)  # in the middle of an import it would dump core
from importlib.metadata import version
assert (3, 9) <= sys.version_info[:2] <= (3, 11)
release = tuple(int(part) for part in version("mindspore").split(".")[:2])
assert (2, 7) <= release <= (2, 10) and int(version("numpy").split(".")[0]) < 2
import mindspore, PIL, tqdm, yaml
PY
}

# Prints the path of a Python 3.9-3.11 that can make virtual environments.
find_base_python() {
  local name path
  for name in python3 python3.11 python3.10 python3.9 python; do
    path=$("$name" -c "$SAFE
import venv, ensurepip"'
if (3, 9) <= sys.version_info[:2] <= (3, 11):
    print(sys.executable)' 2>/dev/null </dev/null) || continue
    if [ -n "$path" ]; then
      printf '%s\n' "$path"
      return 0
    fi
  done
  return 1
}

# ensure_venv EXTRA: sets PYTHON to a virtual environment at the repository's root with .[EXTRA].
ensure_venv() {
  local extra=$1 code
  local wanted marker="$VENV/.mindspore_thor-$1"
  PYTHON="$VENV/bin/python"
  wanted=$(cksum <"$REPO_ROOT/pyproject.toml")
  if [ "$(cat "$marker" 2>/dev/null)" = "$wanted" ] && "$PYTHON" -c '' 2>/dev/null; then
    return 0
  fi
  # Two scripts started at once must not install into the same folder at the same time.
  (
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    if [ "$(cat "$marker" 2>/dev/null)" = "$wanted" ] && "$PYTHON" -c '' 2>/dev/null; then
      exit 0
    fi
    install_venv "$extra" && printf '%s\n' "$wanted" >"$marker"
  ) 9>"$REPO_ROOT/.venv.lock"
  code=$?
  return "$code"
}

free_space() { df -Pm -- "$1" | awk 'NR == 2 { print $4 " MB" }'; }

install_venv() {
  local base made="$VENV/.mindspore_thor-made" busy="$VENV/.mindspore_thor-busy"
  # Left half-built by an interrupted run, or its base Python is gone: start again. A folder that
  # somebody else made is never removed.
  if [ -e "$made" ] && { [ -e "$busy" ] || ! "$PYTHON" -c '' 2>/dev/null; }; then
    rm -rf -- "$VENV"
  fi
  if ! "$PYTHON" -Im pip --version >/dev/null 2>&1; then
    case "$VENV" in
      *:*)
        say "error: $REPO_ROOT has a colon in its name, where Python makes no virtual environment;" \
          "move it, or set MINDSPORE_THOR_PYTHON to a Python that has MindSpore"
        return 2
        ;;
    esac
    if ! base=$(find_base_python); then
      say "error: no Python 3.9, 3.10 or 3.11 with the venv module found; install one" \
        "(on Debian: apt-get install python3 python3-venv) or set MINDSPORE_THOR_PYTHON"
      return 2
    fi
    say "making a virtual environment in $VENV with $base"
    if [ ! -e "$VENV" ]; then
      mkdir -- "$VENV" || return 1
      : >"$made"
      : >"$busy"
    fi
    "$base" -Im venv "$VENV" </dev/null || return 1
  fi
  say "installing MindSpore and the rest into $VENV; this takes a few minutes the first time"
  [ ! -e "$made" ] || : >"$busy"
  # Bytecode is made of what is imported, below: of all that pip installs it takes a minute.
  "$PYTHON" -Im pip install --quiet --no-compile --disable-pip-version-check --no-input \
    -e "$REPO_ROOT[$1]" </dev/null || {
    say "error: pip could not install the package; see its message above." \
      "$(free_space "$VENV") are free where $VENV is, and it takes 3 GB"
    return 1
  }
  if [ "$1" = test ]; then
    # Only its sample photos are needed; its own dependencies are large.
    "$PYTHON" -Im pip install --quiet --disable-pip-version-check --no-input --no-deps \
      'foolbox==3.3.4' </dev/null ||
      say "note: foolbox could not be installed; the tests on its photos will be skipped"
  fi
  # Where nothing may write bytecode, as in many containers, every start would compile MindSpore's
  # sources anew: 8 s in place of 3. This folder is ours to write to.
  env -u PYTHONDONTWRITEBYTECODE "$PYTHON" -Ic 'import mindspore, PIL, tqdm, yaml' \
    >/dev/null 2>&1 </dev/null
  rm -f -- "$busy"
}

# preload_allocator: what runs from here on allocates with oneTBB's malloc, if PYTHON has it, and on
# huge pages. A fifth of a graph's compilation is malloc, see docs/design.md. An allocator that is
# preloaded already stays.
preload_allocator() {
  local lib
  export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
  lib=$("$PYTHON" -Ic 'import sys; print(sys.prefix)' 2>/dev/null </dev/null)/lib
  # Colons and spaces divide the list of libraries.
  case "$lib:${LD_PRELOAD:-}" in *[[:space:]]* | *:?*) return 0 ;; esac
  [ -e "$lib/libtbbmalloc_proxy.so.2" ] || return 0
  export LD_PRELOAD="$lib/libtbbmalloc.so.2:$lib/libtbbmalloc_proxy.so.2"
  export TBB_MALLOC_USE_HUGE_PAGES=1
}

# choose_python: sets PYTHON to the present Python if it has everything, else to the local one.
choose_python() {
  local name
  # Else the script would go on with the next Python, or install one, after Ctrl-C.
  trap 'exit 130' INT
  if [ -n "${MINDSPORE_THOR_PYTHON:-}" ]; then
    PYTHON=$MINDSPORE_THOR_PYTHON
    return 0
  fi
  for name in python3 python; do
    if is_ready "$name"; then
      PYTHON=$name
      return 0
    fi
  done
  ensure_venv plot
}

# read_positional ARGUMENTS...: splits them into the arrays positional (up to the first --key) and
# overrides (the rest).
read_positional() {
  positional=()
  while [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; do
    positional+=("$1")
    shift
  done
  overrides=("$@")
}

# plan_training DATASET CONFIG RESUME: sets train_arguments and eval_arguments for these and for the
# overrides; eval_arguments name the run folder, which is chosen here unless --output_dir says it.
# They are empty where nothing will be trained.
plan_training() {
  local dataset=$1 resume=$3 argument previous="" output="" method="" trains=1
  local config=${2:-"$REPO_ROOT/models/resnet/resnet20_fashion_mnist_sample.yaml"}
  for argument in ${overrides[@]+"${overrides[@]}"}; do
    case "$previous:$argument" in
      --output_dir:*) output=$argument ;;
      --method:*) method=$argument ;;
      *:--output_dir=*) output=${argument#--output_dir=} ;;
      *:--method=*) method=${argument#--method=} ;;
      *:--print_config) trains="" ;;
    esac
    previous=$argument
  done
  case "$method" in
    */*) method="" ;; # train.py will refuse it; a folder's name it cannot be
  esac
  train_arguments=(--config_path "$config")
  [ -z "$dataset" ] || train_arguments+=(--data_path "$dataset")
  [ -z "$resume" ] || train_arguments+=(--resume_ckpt "$resume")
  if [ -z "$output" ]; then
    if [ -z "$resume" ]; then
      # The process number tells it from that of a script started in the same second.
      output="runs/$(basename -- "$config" .yaml)${method:+_$method}-$(date +%Y%m%d-%H%M%S)-$$"
      train_arguments+=(--output_dir "$output")
    elif [ -d "$resume" ]; then
      output=$resume
    else
      output=$(dirname -- "$resume")
    fi
  fi
  train_arguments+=(${overrides[@]+"${overrides[@]}"})
  # The run folder holds the resolved configuration, with every override in it.
  eval_arguments=()
  [ -n "$trains" ] || return 0
  eval_arguments=(--checkpoint_file_path "$output")
  [ -z "$dataset" ] || eval_arguments+=(--data_path "$dataset")
}

# run_python ARGUMENTS...: runs PYTHON, passes signals on to it, waits until it has really ended, and
# returns its exit code. A signal that this script ignores (SIGHUP under nohup) Python ignores, too.
run_python() {
  local child code=0 again=1 name
  set -m # a process group of its own, so that a signal reaches it once: through the traps
  "$PYTHON" "$@" </dev/null &
  child=$!
  for name in INT TERM HUP USR1 USR2 XCPU; do
    # shellcheck disable=SC2064
    trap "again=1; kill -$name \"\$child\" 2>/dev/null" "$name"
  done
  while [ -n "$again" ]; do
    again=""
    wait "$child"
    code=$?
  done
  trap - INT TERM HUP USR1 USR2 XCPU
  set +m
  return "$code"
}

# run_distributed FIRST TARGET ARGUMENTS...: what run_distribute_train*.sh do. FIRST is the name of
# the first argument, TARGET a device target or nothing.
run_distributed() {
  local first=$1 target=$2 usage argument previous="" kept=() launch=()
  local dry=""
  shift 2
  usage="usage: bash ${0##*/} $first [DATASET_PATH] [CONFIG_PATH] [RESUME_CKPT] [--log_dir FOLDER]"
  usage="$usage [--cluster_time_out SECONDS] [--dry_run] [--any.key value ...]"
  read_positional "$@"
  for argument in ${overrides[@]+"${overrides[@]}"}; do
    case "$previous:$argument" in
      --log_dir:* | --cluster_time_out:*)
        launch+=("$previous=$argument")
        previous=""
        continue
        ;;
      *:--help)
        say "$usage"
        exit 0
        ;;
      *:--dry_run) dry=--dry_run ;;
      *:--log_dir | *:--cluster_time_out) ;;
      *:--log_dir=* | *:--cluster_time_out=*) launch+=("$argument") ;;
      *) kept+=("$argument") ;;
    esac
    previous=$argument
  done
  case "$previous" in
    --log_dir | --cluster_time_out)
      say "error: $previous needs a value; $usage"
      exit 2
      ;;
  esac
  overrides=(${kept[@]+"${kept[@]}"})
  if [ "${#positional[@]}" -lt 1 ] || [ "${#positional[@]}" -gt 4 ]; then
    say "error: $first is needed, at most three more arguments may follow; $usage"
    exit 2
  fi
  case "$target:${positional[0]}" in
    :*) ;;
    *:*[!0-9]* | *:)
      say "error: DEVICE_NUM is '$(quoted "${positional[0]}")'; give a number of devices"
      exit 2
      ;;
  esac
  [ -z "$target" ] || overrides=(--train.device_target "$target" ${kept[@]+"${kept[@]}"})
  plan_training "${positional[1]:-}" "${positional[2]:-}" "${positional[3]:-}"
  choose_python || exit
  if [ "${#eval_arguments[@]}" -eq 0 ]; then
    # Once is enough, and the scheduler would wait for ranks that never join.
    run_python "$REPO_ROOT/train.py" "${train_arguments[@]}"
    return
  fi
  run_python "$REPO_ROOT/scripts/launch.py" ${dry:+"$dry"} ${launch[@]+"${launch[@]}"} \
    "${positional[0]}" "$REPO_ROOT/train.py" "${train_arguments[@]}" || exit
  [ -z "$dry" ] || return 0
  # Of several servers only the one with rank 0 has written a run folder.
  case "${positional[0]}" in
    *[!0-9]*) [ -e "${eval_arguments[1]}" ] || return 0 ;;
  esac
  run_python "$REPO_ROOT/eval.py" "${eval_arguments[@]}"
}
