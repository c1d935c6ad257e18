//! The command line: the only place where flags exist.
//!
//! Every flag of the long-running modes is also an environment variable (`ORLOP_…`) and a field of the YAML file named
//! by `--config` (camelCase), or the kubelet's KubeletConfiguration. What is said closer to the process wins: flag, environment, file, default.
//! Not for: what a value must be like; `config` turns these words into a [`crate::config::Config`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

/// A Kubernetes node in one program.
#[derive(Debug, Parser)]
#[command(name = "orlop", version, long_about = None, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The words this process was started with. Prints help or the mistake and ends the process where that is the answer.
    #[must_use]
    pub fn from_words() -> Self {
        Self::parse()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster on this machine: API server, controllers, scheduler and a node.
    Standalone(ModeArgs),
    /// Join an existing control plane as a node.
    Node(ModeArgs),
    /// Run only the service load balancer, in kube-proxy's place.
    Dataplane(ModeArgs),
    /// Serve the CRI socket alone: a container runtime for a kubelet of upstream.
    Cri(ModeArgs),
    /// Images on this machine.
    Image {
        /// What to do with them.
        #[command(subcommand)]
        command: ImageCommand,
        /// Where they are.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// List the containers on this machine, without an API server.
    Ps {
        /// Also containers that ended.
        #[arg(short, long)]
        all: bool,
        /// Where they are.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Run a command in a container on this machine, without an API server.
    Exec {
        /// Hand on standard input.
        #[arg(short = 'i', long)]
        stdin: bool,
        /// Give it a terminal.
        #[arg(short, long)]
        tty: bool,
        /// The container.
        #[command(flatten)]
        target: TargetArgs,
        /// Program and arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
        /// Where it is.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Look at what a container on this machine writes from now on, and hand it standard input.
    Attach {
        /// Hand on standard input.
        #[arg(short = 'i', long)]
        stdin: bool,
        /// The container.
        #[command(flatten)]
        target: TargetArgs,
        /// Where it is.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Print the log of a container on this machine, without an API server.
    Logs {
        /// Go on while the container runs.
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines.
        #[arg(long)]
        tail: Option<u64>,
        /// Begin each line with its time.
        #[arg(long)]
        timestamps: bool,
        /// The container.
        #[command(flatten)]
        target: TargetArgs,
        /// Where it is.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Print what is known of a pod on this machine as JSON.
    Inspect {
        /// Name, `namespace/name` or UID of the pod.
        pod: String,
        /// Where it is.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Print which stage of a pod's start took how long, as the running agent saw it.
    Trace {
        /// Name, `namespace/name` or UID of the pod [default: one line for each pod].
        pod: Option<String>,
        /// Where it is.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// List what the containers on this machine use.
    Stats(DirArgs),
    /// Say in words what the service load balancer's maps in the kernel hold.
    Services(DirArgs),
    /// List which NetworkPolicies select which pods of this node, and what they let through and kept out.
    Policies(DirArgs),
    /// List connections whose packets are translated: who asked for which service, and which backend it got.
    Connections(DirArgs),
    /// Print new connections to services as they begin: who asked for what, which backend it got or why none; and what policies keep out
    Flows {
        /// For habit's sake: there is nothing to print but what is yet to come.
        #[arg(short, long)]
        follow: bool,
        /// Which of them.
        #[command(flatten)]
        filter: FlowFilter,
        /// Where it is.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Say step by step what would become of the first packet of a connection.
    Explain {
        /// Address of the sender.
        source: IpAddr,
        /// `ADDRESS:PORT` that it dials.
        destination: SocketAddr,
        /// `tcp`, `udp` or `sctp`.
        #[arg(long, default_value = "tcp")]
        protocol: String,
        /// Where it is.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Print a kubeconfig with a new client certificate of the standalone cluster's CA.
    Kubeconfig(KubeconfigArgs),
    /// Remove what keeps running without an agent: pods, networks, mounts, programs in the kernel. Keeps state and images.
    Reset {
        /// Do it without asking; required when standard input is not a terminal.
        #[arg(short, long)]
        yes: bool,
        /// The node's cgroup subtree.
        #[arg(long, env = "ORLOP_CGROUP_ROOT", default_value = "orlop")]
        cgroup_root: String,
        /// Where the node is.
        #[command(flatten)]
        dirs: DirArgs,
    },
    /// Print version, target and the eBPF object built in.
    Version,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import an OCI layout directory, an OCI tar or a `docker save` tar, and pin what it brings: garbage collection
    /// never removes what it could not fetch again.
    Load {
        /// The directories or archives.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Let garbage collection have them.
        #[arg(long)]
        no_pin: bool,
    },
    /// Fetch an image from its registry.
    Pull {
        /// As in a pod: `nginx`, `registry.example/app:v1`, `name@sha256:…`.
        reference: String,
        /// YAML file with mirrors, certificate authorities and rewrites by registry.
        #[arg(long, env = "ORLOP_REGISTRIES", value_name = "FILE")]
        registries: Option<PathBuf>,
        /// Docker configuration with registry credentials [default: STATE_DIR/config.json].
        #[arg(long, env = "ORLOP_DOCKER_CONFIG", value_name = "FILE")]
        docker_config: Option<PathBuf>,
        /// Registry (`host:port`) that speaks plain HTTP; may be given several times.
        #[arg(long, value_name = "HOST:PORT")]
        plain_http: Vec<String>,
        /// `user:password` for the registry.
        #[arg(long, env = "ORLOP_REGISTRY_CREDENTIALS", hide_env_values = true)]
        credentials: Option<String>,
    },
    /// List images.
    Ls,
    /// Print all that is known of images, as JSON.
    Inspect {
        /// Names or IDs.
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Remove the images that nothing needs, and say of each image why it goes or stays.
    Prune {
        /// Only say it.
        #[arg(long)]
        dry_run: bool,
        /// Only as much as the agent would: nothing while the disk is below its threshold.
        #[arg(long)]
        by_threshold: bool,
    },
    /// Remove images by name.
    Rm {
        /// The names, as `ls` prints them.
        #[arg(required = true)]
        references: Vec<String>,
    },
}

/// A container on this machine.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// Name, `namespace/name` or UID of the pod, or the first digits of the container's id.
    pub pod: String,
    /// Name of the container [default: the pod's first].
    #[arg(short, long)]
    pub container: Option<String>,
}

/// Which flows are wanted: all that is given must fit.
#[derive(Clone, Debug, Default, Args)]
pub struct FlowFilter {
    /// Calls of this pod's processes (`name` or `namespace/name`), or packets from or to this address.
    #[arg(long)]
    pub pod: Option<String>,
    /// The address of the service.
    #[arg(long)]
    pub service: Option<IpAddr>,
    /// Its port.
    #[arg(long)]
    pub port: Option<u16>,
}

/// Where a node keeps its things.
#[derive(Clone, Debug, Args)]
pub struct DirArgs {
    /// What survives a reboot.
    #[arg(long, env = "ORLOP_STATE_DIR", default_value = DEFAULT_STATE_DIR, global = true)]
    pub state_dir: PathBuf,
    /// What does not.
    #[arg(long, env = "ORLOP_RUN_DIR", default_value = DEFAULT_RUN_DIR, global = true)]
    pub run_dir: PathBuf,
}

/// Default of `--state-dir`.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/orlop";
/// Default of `--run-dir`.
pub const DEFAULT_RUN_DIR: &str = "/run/orlop";

/// `orlop kubeconfig`.
#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    /// User name: the certificate's common name.
    #[arg(long, default_value = "kubernetes-admin")]
    pub user: String,
    /// Groups: the certificate's organizations. `system:masters` may do everything.
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Address of the API server; that of the admin kubeconfig if not given.
    #[arg(long)]
    pub server: Option<String>,
    /// Where the cluster keeps its CA.
    #[command(flatten)]
    pub dirs: DirArgs,
}

/// A long-running mode.
#[derive(Debug, Args)]
pub struct ModeArgs {
    /// YAML file with any of the flags below as camelCase fields (`stateDir: …`), or the kubelet's own configuration
    /// (`kind: KubeletConfiguration`), or both, as documents of one file (docs/configuration.md).
    #[arg(long, env = "ORLOP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory whose files `*.conf` change the kubelet's configuration, in the order of their names.
    #[arg(long, env = "ORLOP_CONFIG_DIR", value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// The rest.
    #[command(flatten)]
    pub flags: Flags,
}

/// How a flag's value is written.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($kind:ty),*) => { $(impl Shown for $kind { fn shown(&self) -> String { self.to_string() } })* };
}

shown!(String, bool, u8, u16, u32, i64, usize);

impl Shown for PathBuf {
    fn shown(&self) -> String {
        self.display().to_string()
    }
}

/// Defines the flags once: as command line arguments, as environment variables, as fields of the file.
macro_rules! flags {
    ($($(#[$meta:meta])* $name:ident: $kind:ty, $env:literal;)*) => {
        /// Flags of the long-running modes; `None` means not said.
        #[derive(Clone, Debug, Default, Args, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "camelCase", default)]
        pub struct Flags {
            $($(#[$meta])* #[arg(long, env = $env)] pub $name: Option<$kind>,)*
        }

        impl Flags {
            /// What `self` says, and where it says nothing what `file` says.
            #[must_use]
            pub fn or(self, file: Self) -> Self {
                let Self { $($name),* } = self;
                Self { $($name: $name.or(file.$name)),* }
            }

            /// What was said, by the names of the flags.
            #[must_use]
            pub fn said(&self) -> BTreeMap<String, String> {
                let all = [$((stringify!($name), self.$name.as_ref().map(|value| value as &dyn Shown))),*];
                let said = all.into_iter().filter_map(|(name, value)| Some((name.replace('_', "-"), value?.shown())));
                said.collect()
            }
        }
    };
}

flags! {
    /// What survives a reboot [default: /var/lib/orlop].
    state_dir: PathBuf, "ORLOP_STATE_DIR";
    /// What does not [default: /run/orlop].
    run_dir: PathBuf, "ORLOP_RUN_DIR";
    /// Container logs [default: STATE_DIR/log/pods].
    log_dir: PathBuf, "ORLOP_LOG_DIR";
    /// Kubeconfig of the control plane to join (modes node and dataplane) [default in mode dataplane: the service account of
    /// the pod this runs in].
    kubeconfig: PathBuf, "ORLOP_KUBECONFIG";
    /// URL of the API server, instead of the kubeconfig's or of the cluster IP that a pod is told: who serves cluster IPs cannot
    /// begin by asking for one (modes node and dataplane).
    master: String, "ORLOP_MASTER";
    /// Directory of static pods: manifests that run whatever becomes of the API server.
    static_pod_path: PathBuf, "ORLOP_STATIC_POD_PATH";
    /// Addresses of this node's pods, where nobody else says them (mode cri, and mode node without --kubeconfig)
    /// [default: the first node's part of the cluster's].
    pod_cidr: String, "ORLOP_POD_CIDR";
    /// Name of this node [default: host name].
    node_name: String, "ORLOP_NODE_NAME";
    /// Address of this node, or one of either family separated by a comma [default: the source addresses of the default
    /// routes].
    node_ip: String, "ORLOP_NODE_IP";
    /// Labels of this node: `key=value,key=value`.
    node_labels: String, "ORLOP_NODE_LABELS";
    /// Most pods on this node [default: 110].
    max_pods: u32, "ORLOP_MAX_PODS";
    /// Ids of the host for pods with `hostUsers: false`, as `first:count`; each gets 65536 [default: those of the user
    /// kubelet in /etc/subuid and /etc/subgid, else from 65536 on for as many pods as there may be].
    user_namespace_ids: String, "ORLOP_USER_NAMESPACE_IDS";
    /// Kept from pods for the system: `cpu=500m,memory=1Gi,ephemeral-storage=1Gi` [default: nothing].
    system_reserved: String, "ORLOP_SYSTEM_RESERVED";
    /// Kept from pods for Kubernetes' own programs [default: nothing].
    kube_reserved: String, "ORLOP_KUBE_RESERVED";
    /// Whether pods together are held to what the node has for them: `pods` or `none` [default: pods].
    enforce_node_allocatable: String, "ORLOP_ENFORCE_NODE_ALLOCATABLE";
    /// When pods are evicted at once: `memory.available<100Mi,nodefs.available<10%` [default: those, with
    /// nodefs.inodesFree<5%, imagefs.available<15% and imagefs.inodesFree<5%].
    eviction_hard: String, "ORLOP_EVICTION_HARD";
    /// Most tasks in a pod; -1 is no limit [default: -1].
    #[arg(allow_negative_numbers = true)]
    pod_max_pids: i64, "ORLOP_POD_MAX_PIDS";
    /// Whether pods may swap: `NoSwap`, or `LimitedSwap` (Burstable pods, on cgroup v2) [default: NoSwap].
    memory_swap_behavior: String, "ORLOP_MEMORY_SWAP_BEHAVIOR";
    /// Out of memory ends one process instead of the container, on cgroup v2 [default: false].
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    single_process_oom_kill: bool, "ORLOP_SINGLE_PROCESS_OOM_KILL";
    /// Memory is guaranteed and throttled by requests and limits, on cgroup v2: upstream's alpha feature MemoryQoS
    /// [default: false].
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    memory_qos: bool, "ORLOP_MEMORY_QOS";
    /// Resource limits of containers, as in `nofile=1024:524288,core=0` [default: those this program is started with].
    default_ulimits: String, "ORLOP_DEFAULT_ULIMITS";
    /// Port of the kubelet API, on the node's address [default: 10250].
    kubelet_port: u16, "ORLOP_KUBELET_PORT";
    /// Port of `/healthz` without TLS, on 127.0.0.1; 0 is none [default: 10248].
    healthz_port: u16, "ORLOP_HEALTHZ_PORT";
    /// Cgroup subtree of this node, below each hierarchy's mount point [default: orlop; in mode dataplane the kubelet's
    /// `kubepods.slice` or `kubepods`, where there is one].
    cgroup_root: String, "ORLOP_CGROUP_ROOT";
    /// Directory for pinned eBPF maps and links [default: RUN_DIR/bpf].
    bpffs: PathBuf, "ORLOP_BPFFS";
    /// Addresses of the node that take node ports: "primary", or networks with commas between; a family without a network takes
    /// them everywhere [default: all].
    nodeport_addresses: String, "ORLOP_NODEPORT_ADDRESSES";
    /// Whether programs of the node reach node ports at 127.0.0.1 [default: true].
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    localhost_nodeports: bool, "ORLOP_LOCALHOST_NODEPORTS";
    /// Whether backends see the node as the source of all packets to a cluster IP that are translated at a device [default: false].
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    masquerade_all: bool, "ORLOP_MASQUERADE_ALL";
    /// How packets from outside reach endpoints on other nodes: `snat` (they come from this node), `dsr` (as they came, IP in IP,
    /// and answers go straight to the client), or `hybrid` (so with TCP only); `accept` is `snat` on a node that takes what others
    /// send in this way. The same on all nodes [default: snat].
    load_balancing_mode: String, "ORLOP_LOAD_BALANCING_MODE";
    /// Serve no Services and hold pods to no NetworkPolicies: another program does (modes standalone and node) [default: false].
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    disable_kube_proxy: bool, "ORLOP_DISABLE_KUBE_PROXY";
    /// Whose sockets are translated where they name a service: `all`, or `host` (pods' packets are translated instead, so that a mesh
    /// or a virtual machine in a pod sees what it asked for) [default: all].
    socket_services: String, "ORLOP_SOCKET_SERVICES";
    /// Network devices whose packets the service dataplane leaves alone, with commas between.
    skip_devices: String, "ORLOP_SKIP_DEVICES";
    /// Network devices where known connections to services are sent on before the stack (XDP), with commas between.
    xdp_devices: String, "ORLOP_XDP_DEVICES";
    /// Addresses of service ports that fit into the dataplane's maps [default: 65536].
    max_services: u32, "ORLOP_MAX_SERVICES";
    /// Endpoints of service ports that fit [default: 262144].
    max_endpoints: u32, "ORLOP_MAX_ENDPOINTS";
    /// Connections through node ports and the like that are kept; the ones that were silent longest make room [default: 32768].
    max_connections: u32, "ORLOP_MAX_CONNECTIONS";
    /// The orlop-shim program [default: beside this program].
    shim: PathBuf, "ORLOP_SHIM";
    /// Serve the Container Runtime Interface at this path too (mode cri: there [default: RUN_DIR/cri.sock]).
    cri_socket: PathBuf, "ORLOP_CRI_SOCKET";
    /// Directory of the sockets that a kubelet has: `device-plugins`, `pod-resources` (programs made for a kubelet look
    /// for them in /var/lib/kubelet) [default: STATE_DIR].
    kubelet_dir: PathBuf, "ORLOP_KUBELET_DIR";
    /// Directory of CNI configurations: the first file in the order of names is the pod network, made by other people's
    /// plugins instead of the built-in one [default: none].
    cni_conf_dir: PathBuf, "ORLOP_CNI_CONF_DIR";
    /// Directories of CNI plugins, separated by commas [default: /opt/cni/bin,/usr/lib/cni].
    cni_bin_dir: String, "ORLOP_CNI_BIN_DIR";
    /// How pods of other nodes are reached: `host-gw` (their node is the next hop), `vxlan`, or `auto` (directly if that node
    /// is on a link of this one, else inside of VXLAN) [default: auto].
    overlay: String, "ORLOP_OVERLAY";
    /// MTU of pod interfaces [default: that of the device with the default route, less what an overlay needs].
    mtu: u32, "ORLOP_MTU";
    /// Addresses of all pods of the cluster; for both families one network of each, separated by a comma, the main
    /// family's first [default: 10.42.0.0/16].
    cluster_cidr: String, "ORLOP_CLUSTER_CIDR";
    /// Bits of each node's part of it (mode standalone) [default: 24].
    node_cidr_mask: u8, "ORLOP_NODE_CIDR_MASK";
    /// The same of IPv6 [default: 64].
    node_cidr_mask_ipv6: u8, "ORLOP_NODE_CIDR_MASK_IPV6";
    /// Cluster IPs of Services (mode standalone); for both families one network of each, separated by a comma, the main
    /// family's first [default: 10.43.0.0/16, and fd00:43::/112 where pods have IPv6].
    service_cidr: String, "ORLOP_SERVICE_CIDR";
    /// Address and port of the API server (mode standalone) [default: port 6443 of every address, of IPv6 too on a node that has it].
    listen: String, "ORLOP_LISTEN";
    /// More names and addresses for the API server's certificate, separated by commas.
    tls_san: String, "ORLOP_TLS_SAN";
    /// Controllers to run (mode standalone): `*` is all, `-name` leaves one out, `name` adds one [default: *].
    controllers: String, "ORLOP_CONTROLLERS";
    /// Registries (`host:port`) that speak plain HTTP, separated by commas.
    plain_http_registries: String, "ORLOP_PLAIN_HTTP_REGISTRIES";
    /// YAML file with mirrors, certificate authorities and rewrites by registry (docs/operations.md).
    registries: PathBuf, "ORLOP_REGISTRIES";
    /// Docker configuration with the node's own registry credentials [default: STATE_DIR/config.json].
    docker_config: PathBuf, "ORLOP_DOCKER_CONFIG";
    /// The kubelet's CredentialProviderConfig: plugins that know registry credentials.
    image_credential_provider_config: PathBuf, "ORLOP_IMAGE_CREDENTIAL_PROVIDER_CONFIG";
    /// Directory of these plugins.
    image_credential_provider_bin_dir: PathBuf, "ORLOP_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR";
    /// When pods must show credentials for images that are here already, in upstream's words [default: NeverVerifyPreloadedImages].
    image_pull_credentials_verification_policy: String, "ORLOP_IMAGE_PULL_CREDENTIALS_VERIFICATION_POLICY";
    /// Repositories for the policy NeverVerifyAllowlistedImages, separated by commas; `registry.example/*` is everything below.
    preloaded_images_verification_allowlist: String, "ORLOP_PRELOADED_IMAGES_VERIFICATION_ALLOWLIST";
    /// Images that are pulled at once [default: 4].
    max_parallel_image_pulls: usize, "ORLOP_MAX_PARALLEL_IMAGE_PULLS";
    /// Image pulls that may begin per second; 0 is no limit [default: 5].
    registry_qps: u32, "ORLOP_REGISTRY_QPS";
    /// Image pulls that may begin at once, where there is a limit [default: 10].
    registry_burst: u32, "ORLOP_REGISTRY_BURST";
    /// Directory whose image archives are imported, and kept while they lie there [default: STATE_DIR/images.d].
    image_dir: PathBuf, "ORLOP_IMAGE_DIR";
    /// Between two looks at the disk of the images [default: 5m].
    image_gc_period: String, "ORLOP_IMAGE_GC_PERIOD";
    /// Disk use (per cent) from which unused images are removed [default: 85].
    image_gc_high_threshold_percent: u8, "ORLOP_IMAGE_GC_HIGH_THRESHOLD_PERCENT";
    /// Disk use down to which they are removed [default: 80].
    image_gc_low_threshold_percent: u8, "ORLOP_IMAGE_GC_LOW_THRESHOLD_PERCENT";
    /// Age below which no image is removed [default: 2m].
    image_minimum_gc_age: String, "ORLOP_IMAGE_MINIMUM_GC_AGE";
    /// Time without use after which an image is removed in any case; 0s is never [default: 0s].
    image_maximum_gc_age: String, "ORLOP_IMAGE_MAXIMUM_GC_AGE";
    /// Size from which on a container's log is put aside and a new one begun [default: 10Mi].
    container_log_max_size: String, "ORLOP_CONTAINER_LOG_MAX_SIZE";
    /// Most log files of a container, 2 at least [default: 5].
    container_log_max_files: usize, "ORLOP_CONTAINER_LOG_MAX_FILES";
    /// DNS servers for pods with dnsPolicy ClusterFirst, separated by commas [default: in mode standalone our own, the
    /// tenth addresses of --service-cidr].
    cluster_dns: String, "ORLOP_CLUSTER_DNS";
    /// Port of our own DNS server on the node's addresses (mode standalone, and mode node with --node-local-dns); 0 is no
    /// server [default: 10053].
    dns_port: u16, "ORLOP_DNS_PORT";
    /// Name servers for names outside the cluster, as `address` or `address:port`, separated by commas [default: those
    /// of the node's resolv.conf].
    dns_upstreams: String, "ORLOP_DNS_UPSTREAMS";
    /// Seconds for which an answer about the cluster's names may be kept [default: 30].
    dns_ttl: u32, "ORLOP_DNS_TTL";
    /// Answer the DNS questions of this node's pods and processes here instead of at the cluster's DNS server (mode
    /// node) [default: false].
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    node_local_dns: bool, "ORLOP_NODE_LOCAL_DNS";
    /// Once Services are served here, remove the rules that kube-proxy left (iptables, nftables, IPVS); connections under way
    /// go on (modes node and dataplane) [default: false].
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    cleanup_kube_proxy: bool, "ORLOP_CLEANUP_KUBE_PROXY";
    /// Domain of the cluster [default: cluster.local].
    cluster_domain: String, "ORLOP_CLUSTER_DOMAIN";
    /// What to log, as in `info,orlop_dataplane=debug` [default: info].
    log: String, "ORLOP_LOG";
}
