# Read by every script here. Before `flwr`, from this folder: . ./environment.sh
# Your own settings (a proxy, another PATH) go into environment.local.sh, which is never overwritten.
export FLWR_HOME="$PWD/flower"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
# The apps are those of the installed package; nothing is downloaded at the start of a run.
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
# glibc gives freed memory back (docs/deployment.md, "Memory of the ServerApp").
export MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=8388608 MALLOC_TRIM_THRESHOLD_=134217728
# Everything here talks over loopback, which must never go through a proxy.
export NO_PROXY="127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}" no_proxy="127.0.0.1,localhost${no_proxy:+,$no_proxy}"
[ ! -f environment.local.sh ] || . ./environment.local.sh
command -v flower-superlink >/dev/null ||
    echo "flower-superlink is not on the PATH: activate the environment in which medvlmoe is installed" >&2

# The connection that `flwr run app {{ name }}` uses.
mkdir -p "$FLWR_HOME"
cat > "$FLWR_HOME/config.toml.$$" <<END
[superlink]
default = "{{ name }}"
[superlink.{{ name }}]
address = "127.0.0.1:{{ superlink.port }}"
root-certificates = '$PWD/ca.crt'
END
mv "$FLWR_HOME/config.toml.$$" "$FLWR_HOME/config.toml"
