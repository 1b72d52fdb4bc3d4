//! The command line as typed.

use crate::api::Client;
use crate::api::monitor::{self, EventType};
use crate::api::why::MEMORY;
use crate::daemon::options::PathMode;
use crate::daemon::pattern::InterfaceSpec;
use crate::daemon::{Options, config};
use crate::datapath::TcMode;
use crate::manifest;
use crate::objects::Key;
use crate::playground::cli::{DemoArgs, HiddenCommand};
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use lb_common::Reason;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How completions are installed.
const COMPLETION: &str = "\
For this shell:       source <(lb-ctl completion bash)
For every new one:    lb-ctl completion bash > /etc/bash_completion.d/lb-ctl
                      lb-ctl completion zsh > \"${fpath[1]}/_lb-ctl\"
                      lb-ctl completion fish > ~/.config/fish/completions/lb-ctl.fish";

/// Kubernetes Services for plain Linux nodes, balanced in the kernel by eBPF/XDP
#[derive(Debug, Parser)]
#[command(name = "lb-ctl", version, propagate_version = true, max_term_width = 100)]
pub struct Args {
    /// Which daemon.
    #[command(flatten)]
    pub target: Target,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which daemon a command talks to, or is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Target {
    /// Unix socket of the daemon [default: /run/lb-ctl/<instance>.sock]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Daemon")]
    pub socket: Option<PathBuf>,
    /// Instance of the daemon, where several run on one machine [default: default]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Daemon")]
    pub instance: Option<String>,
}

impl Target {
    /// A client of this daemon.
    pub fn client(&self) -> Client {
        let instance = self.instance.as_deref().unwrap_or(config::DEFAULT_INSTANCE);
        Client::new(self.socket.clone().unwrap_or_else(|| config::default_socket(instance)))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: balance Services on the named interfaces until stopped; forwarding goes on after that
    Daemon(Box<Daemon>),
    /// Create or change objects from manifests: all of them or none
    Apply(Apply),
    /// Show how the objects of manifests differ from what there is, as an apply would leave them
    Diff(Diff),
    /// Show what an apply would change in the maps, and what that means for live connections; without -f, what is still to be done
    Plan(Plan),
    /// Look whether the live maps are as they should be
    Audit(Audit),
    /// Look whether this node is fit for the daemon, which need not run; nothing is changed
    Preflight(Box<Preflight>),
    /// Delete objects, by manifest or by name
    Delete(Delete),
    /// List objects
    Get(Get),
    /// Show one Service with its endpoints, counters and problems
    Describe(Describe),
    /// Show the daemon's interfaces, sources, problems and counters
    Status(Status),
    /// Show live what the datapath does: Services, backends, drops and maps, by the second
    Top(Top),
    /// Trace a packet through the datapath without sending it: what would become of it, step by step, and why
    Trace(Trace),
    /// The datapath's connection table
    #[command(subcommand)]
    Conntrack(Conntrack),
    /// Show what happens to connections and packets, as it happens
    Monitor(Monitor),
    /// Show what did not arrive lately, and what to do about it
    Why(Why),
    /// Show the main job on real packets, in a playground of network namespaces that is removed afterwards
    Demo(DemoArgs),
    /// Remove everything a stopped daemon left in the kernel: hooks, programs, maps
    Cleanup(Cleanup),
    /// Print what makes a shell complete lb-ctl's commands and flags
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages: lb-ctl(1) and one for each command
    Man {
        /// The directory to write them to, such as /usr/local/share/man/man1
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Show the versions of this program and of the daemon
    Version,
    /// What the processes of a playground run.
    #[command(flatten)]
    Playground(HiddenCommand),
}

/// `daemon`
#[derive(Debug, clap::Args)]
pub struct Daemon {
    /// Configuration file; flags win over it [default: /etc/lb-ctl/config.yaml, which may be missing]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration, print what it means, and exit
    #[arg(long)]
    pub check_config: bool,
    /// The settings.
    #[command(flatten)]
    pub options: Options,
}

/// `-f` and `-R`
#[derive(Clone, Debug, clap::Args)]
pub struct Files {
    /// Manifests: a file, a directory, or `-` for standard input; repeatable
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    pub filename: Vec<PathBuf>,
    /// Read directories with all directories below them
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `apply`
#[derive(Clone, Debug, clap::Args)]
pub struct Apply {
    /// Where the manifests are.
    #[command(flatten)]
    pub files: Files,
    /// Apply nothing, but show what would change, as `lb-ctl plan` does and with its exit codes
    #[arg(long)]
    pub plan: bool,
    /// Namespace of objects that name none [default: default]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// What to do about unknown fields and repeated keys
    #[arg(long, value_enum, default_value_t, num_args = 0..=1, require_equals = true, default_missing_value = "strict")]
    pub validate: Validate,
    /// Say what would happen, and do not do it: `server` asks the daemon, `client` (where nothing is said) only looks at the
    /// manifests
    #[arg(long, value_enum, default_value_t, value_name = "WHERE", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "client")]
    pub dry_run: DryRun,
    /// The directories of -f are all there is of them: delete what was applied from them with --prune and is no more in them
    #[arg(long)]
    pub prune: bool,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ApplyFormat,
}

/// `diff`
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing would change, 1 something would, 2 it could not be told.")]
pub struct Diff {
    /// Where the manifests are.
    #[command(flatten)]
    pub files: Files,
    /// Namespace of objects that name none [default: default]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Show what `apply --prune` would delete too
    #[arg(long)]
    pub prune: bool,
}

/// `--dry-run`, in kubectl's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Do it
    #[default]
    None,
    /// Look at the manifests alone
    Client,
    /// Ask the daemon, which knows what else there is
    Server,
}

/// How to print what was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ApplyFormat {
    /// What became of each object, a line each
    #[default]
    #[value(hide = true)]
    Text,
    /// TYPE/NAME, one a line
    Name,
    /// The daemon's whole answer
    Json,
    /// The same in YAML
    Yaml,
}

/// `--validate`, in kubectl's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Validate {
    /// Unknown fields and repeated keys are errors
    #[default]
    #[value(alias = "true")]
    Strict,
    /// They are warnings
    Warn,
    /// They are let pass
    #[value(alias = "false")]
    Ignore,
}

impl From<Validate> for manifest::Validate {
    fn from(validate: Validate) -> Self {
        match validate {
            Validate::Strict => Self::Strict,
            Validate::Warn => Self::Warn,
            Validate::Ignore => Self::Ignore,
        }
    }
}

/// `plan`
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing would change, 1 something would, 2 it could not be told.")]
pub struct Plan {
    /// Where the manifests are.
    #[command(flatten)]
    pub files: Files,
    /// Namespace of objects that name none [default: default]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ReportFormat,
}

/// `audit`
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing was found, 1 something was, 2 it could not be told.")]
pub struct Audit {
    /// Repair what can be: entries are written again or deleted
    #[arg(long)]
    pub repair: bool,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ReportFormat,
}

/// `preflight`
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing fails, 1 something does, 2 it could not be told.")]
pub struct Preflight {
    /// Interfaces that would be managed, as the daemon's --interface takes them [default: those of the configuration file]
    #[arg(value_name = "INTERFACE[=MODE]")]
    pub interfaces: Vec<InterfaceSpec>,
    /// Configuration file of the daemon; flags win over it [default: /etc/lb-ctl/config.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The daemon's --bpffs
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// The daemon's --max-flows
    #[arg(long, value_name = "NUMBER")]
    pub max_flows: Option<u32>,
    /// The daemon's --socket-lb
    #[arg(long, value_name = "CGROUP")]
    pub socket_lb: Option<PathBuf>,
    /// The daemon's --path
    #[arg(long, value_name = "PATH")]
    pub path: Option<PathMode>,
    /// The daemon's --tc
    #[arg(long, value_name = "KIND")]
    pub tc: Option<TcMode>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ReportFormat,
}

/// `delete`
#[derive(Clone, Debug, clap::Args)]
pub struct Delete {
    /// Where the manifests are.
    #[command(flatten)]
    pub files: Files,
    /// Objects: TYPE NAME..., or TYPE/NAME...
    #[arg(value_name = "TYPE NAME", conflicts_with = "filename")]
    pub objects: Vec<String>,
    /// Namespace [default: default]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// An object that is not there is no error
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// How to print objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    #[default]
    #[value(hide = true)]
    Table,
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// TYPE/NAME, one a line
    Name,
}

/// `get`
#[derive(Clone, Debug, clap::Args)]
pub struct Get {
    /// Types (services, pods, endpoints, endpointslices, nodes, namespaces; svc, po, ep, no, ns) and names, or TYPE/NAME
    #[arg(value_name = "TYPE[,TYPE] [NAME]", required = true)]
    pub objects: Vec<String>,
    /// Namespace [default: default]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Print what changes, until interrupted
    #[arg(short = 'w', long)]
    pub watch: bool,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: Format,
    /// No line of headers
    #[arg(long)]
    pub no_headers: bool,
}

/// How to print a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people
    #[default]
    #[value(hide = true)]
    Text,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// `describe`
#[derive(Clone, Debug, clap::Args)]
pub struct Describe {
    /// `service NAME...`, or `service/NAME...`; without a name all of the namespace
    #[arg(value_name = "service NAME", required = true)]
    pub objects: Vec<String>,
    /// Namespace [default: default]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ReportFormat,
}

/// `status`
#[derive(Clone, Debug, clap::Args)]
pub struct Status {
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ReportFormat,
}

/// `top`
#[derive(Clone, Debug, clap::Args)]
pub struct Top {
    /// By what rows are sorted
    #[arg(long, value_enum, default_value_t, value_name = "KEY")]
    pub sort: Sort,
    /// Show only Services with this text in their names, and their endpoints
    #[arg(long, value_name = "TEXT")]
    pub service: Option<String>,
    /// Print everything once, as tables, and end; so it is too where the output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Seconds between two readings
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub interval: u32,
    /// Print so many pictures as text, and end
    #[arg(long, hide = true, conflicts_with = "once", value_name = "NUMBER")]
    pub frames: Option<u16>,
    /// Of this size
    #[arg(long, hide = true, value_name = "WIDTHxHEIGHT", default_value = "80x24", value_parser = size)]
    pub size: (u16, u16),
}

/// By what rows are sorted; the greatest comes first, but names in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Name
    Name,
    /// Endpoints in use
    Endpoints,
    /// New connections a second
    Connections,
    /// Packets a second, both ways
    Packets,
    /// Bytes a second, both ways
    #[default]
    Bytes,
}

/// The size of a terminal.
fn size(text: &str) -> Result<(u16, u16), String> {
    let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    sides
        .filter(|(width, height)| (1..=1000).contains(width) && (1..=1000).contains(height))
        .ok_or_else(|| format!("`{text}` is no size: write WIDTHxHEIGHT, such as 80x24"))
}

/// `trace`
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 it is forwarded, delivered or answered, 1 it is not, 2 it could not be told.")]
pub struct Trace {
    /// Source of the packet; without a port, 40000
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub from: String,
    /// Destination, and tcp (the default), udp or sctp; ADDRESS/icmp for an echo request
    #[arg(long, value_name = "ADDRESS:PORT[/PROTOCOL]")]
    pub to: String,
    /// Interface that it comes in by [default: the one that routes lead to its source by]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// TCP flags: fin, syn, rst, psh, ack, urg [default: syn]
    #[arg(long, value_name = "FLAG[,FLAG]", value_delimiter = ',')]
    pub flags: Vec<String>,
    /// Write the packet as it came and as it left to a capture file, for tcpdump and tshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ReportFormat,
    /// Without a daemon: trace what the manifests in this directory would do, on the network that there is
    #[arg(long, value_name = "DIR", help_heading = "Without a daemon")]
    pub manifests: Option<PathBuf>,
    /// Name of this node in the manifests [default: its host name]
    #[arg(long, value_name = "NAME", requires = "manifests", help_heading = "Without a daemon")]
    pub node: Option<String>,
}

/// `conntrack`
#[derive(Clone, Debug, Subcommand)]
pub enum Conntrack {
    /// List the connections
    #[command(visible_alias = "ls")]
    List(ConntrackList),
}

/// `conntrack list`
#[derive(Clone, Debug, clap::Args)]
pub struct ConntrackList {
    /// How to print; JSON gives one object a line
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ReportFormat,
    /// No line of headers
    #[arg(long)]
    pub no_headers: bool,
}

/// `monitor`
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "It ends by Ctrl-C, when its reader goes away, or with the daemon. Under load the datapath tells a sample: what \
                        was not told is counted, in lines of their own."
)]
pub struct Monitor {
    /// Write the packets themselves to a file that tcpdump and Wireshark read, each as it came and as it left; `-` for standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["type", "output", "no_headers"])]
    pub pcap: Option<PathBuf>,
    /// Only of this Service [default namespace: default]
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = monitor::service)]
    pub service: Option<Key>,
    /// Only of clients with this address, or of this network; repeatable
    #[arg(long, value_name = "ADDRESS|CIDR", value_delimiter = ',', value_parser = monitor::network)]
    pub client: Vec<IpNet>,
    /// Only of the backend with this address; repeatable
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub backend: Vec<IpAddr>,
    /// Only for this reason, by its name in docs/reasons.md; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',', hide_possible_values = true,
          value_parser = PossibleValuesParser::new(Reason::ALL.iter().map(|reason| reason.name())))]
    pub reason: Vec<String>,
    /// Only of this type: new, closed, rejected or dropped; repeatable
    #[arg(long, value_name = "TYPE", value_delimiter = ',', hide_possible_values = true,
          value_parser = PossibleValuesParser::new(EventType::ALL.map(EventType::name)))]
    pub r#type: Vec<String>,
    /// End after so many events, or packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// How to print; JSON gives one object a line
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: LineFormat,
    /// No line of headers
    #[arg(long)]
    pub no_headers: bool,
}

/// How to print lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LineFormat {
    /// For people
    #[default]
    #[value(hide = true)]
    Text,
    /// JSON
    Json,
}

/// `why`
#[derive(Clone, Debug, clap::Args)]
pub struct Why {
    /// Only of this Service [default namespace: default]
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = monitor::service)]
    pub service: Option<Key>,
    /// Only of clients with this address, or of this network
    #[arg(long, value_name = "ADDRESS|CIDR", value_parser = monitor::network)]
    pub client: Option<IpNet>,
    /// How far back, such as 30s, 5m or 1h [default: 1h, which is as far as is remembered]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Duration>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t, hide_default_value = true)]
    pub output: ReportFormat,
}

/// Reads `30s`, `5m` or `1h`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write 30s, 5m or 1h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let time = number.checked_mul(seconds).filter(|time| *time > 0).map(Duration::from_secs).ok_or_else(wrong)?;
    if time > MEMORY { Err(format!("`{text}` is further back than is remembered: an hour")) } else { Ok(time) }
}

/// `cleanup`
#[derive(Clone, Debug, clap::Args)]
pub struct Cleanup {
    /// Configuration file that the daemon used; flags win over it [default: /etc/lb-ctl/config.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the daemon's bpf file system is mounted [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Args::try_parse_from(line.split_whitespace()).map(|args| args.command)
    }

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_daemon_takes_every_flag_that_is_documented() {
        let line = "lb-ctl daemon --interface eth0=xdp --interface veth* --manifests /m --config /c --check-config \
                    --socket /s --instance i --node-name n --service-cidr 10.0.0.0/16 --service-cidr fd00::/112 \
                    --node-port-range 30000-30010 --snat-address 192.0.2.1 --bpffs /b --max-flows 4096 --state-dir /d --log-level debug \
                    --log-format json --path stack --to-pods interface --tc clsact --host-clients=false";
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(args.target.socket, Some(PathBuf::from("/s")));
        let Command::Daemon(daemon) = args.command else { panic!() };
        assert!(daemon.check_config);
        assert_eq!(daemon.options.interfaces.len(), 2);
        assert_eq!(daemon.options.service_cidrs.len(), 2);
        assert_eq!(daemon.options.snat_addresses.len(), 1);
        assert_eq!(daemon.options.max_flows, Some(4096));
        assert_eq!(daemon.options.host_clients, Some(false));
    }

    #[test]
    fn a_bad_value_is_named_with_what_would_be_right() {
        for (line, expected) in [
            ("lb-ctl daemon --interface eth0=fast", "`fast` is no mode"),
            ("lb-ctl daemon --interface lo", "never managed"),
            ("lb-ctl daemon --node-port-range 5", "write FIRST-LAST"),
            ("lb-ctl get pods -o jsonpath={.items}", "wide, json, yaml, name"),
            ("lb-ctl apply -f a.yaml --validate=lax", "strict, warn, ignore"),
            ("lb-ctl get", "required"),
            ("lb-ctl monitor --reason no-luck", "no-luck"),
            ("lb-ctl monitor --client nobody", "neither an address nor a network"),
            ("lb-ctl monitor --service shop/", "write NAMESPACE/NAME"),
            ("lb-ctl why --since 2h", "further back than is remembered"),
            ("lb-ctl why --since ever", "write 30s, 5m or 1h"),
            ("lb-ctl why --since 0s", "write 30s, 5m or 1h"),
            ("lb-ctl get pods -A -n x", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.to_string().contains(expected), "{line}: {error}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn files_and_flags_may_come_in_any_order() {
        let Command::Apply(apply) = parse("lb-ctl apply -f a.yaml -n shop -f -").unwrap() else { panic!() };
        assert_eq!(apply.files.filename, [PathBuf::from("a.yaml"), PathBuf::from("-")]);
        assert_eq!(apply.namespace.as_deref(), Some("shop"));
        for (flag, meant) in [
            ("", Validate::Strict),
            ("--validate", Validate::Strict),
            ("--validate=warn", Validate::Warn),
            ("--validate=false", Validate::Ignore),
        ] {
            let Command::Apply(apply) = parse(&format!("lb-ctl apply {flag} -f a.yaml")).unwrap() else { panic!() };
            assert_eq!(apply.validate, meant, "{flag}");
        }
        let Command::Get(get) = parse("lb-ctl get svc web api -w -o wide --no-headers").unwrap() else { panic!() };
        assert_eq!(get.objects, ["svc", "web", "api"]);
        assert!(get.watch && get.no_headers);
    }

    #[test]
    fn preflight_takes_interfaces_as_the_daemon_does() {
        let line = "lb-ctl preflight eth0=xdp veth* --bpffs /b --max-flows 4096 --socket-lb /c --path stack --tc clsact -o json";
        let Command::Preflight(preflight) = parse(line).unwrap() else { panic!() };
        assert_eq!((preflight.interfaces.len(), preflight.max_flows), (2, Some(4096)));
        assert_eq!((preflight.path, preflight.tc), (Some(PathMode::Stack), Some(TcMode::Clsact)));
        assert!(parse("lb-ctl preflight eth0=fast").unwrap_err().to_string().contains("`fast` is no mode"));
    }

    #[test]
    fn the_socket_follows_the_instance() {
        let target = Target { instance: Some("blue".to_owned()), ..Target::default() };
        assert_eq!(target.client().socket(), "/run/lb-ctl/blue.sock");
    }
}
