//! Manifests by the CLI of a running daemon, with kubectl's habits: rehearsed, compared, applied whole or not at all, pruned,
//! watched and deleted; and what connections see of it.

use lb_ctl::playground::manifests::{HTTP, NAMESPACE};
use lb_tests::cli::{Cli, Said};
use lb_tests::fixture::{Fixture, Setup};
use lb_tests::{needs_datapath, traffic};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-ctl-under-test");
/// For how long a line of a watch may take, and for how long none must come.
const SOON: Duration = Duration::from_secs(10);

fn service(name: &str, address: u8, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  clusterIP: 10.96.77.{address}\n  \
         selector: {{app: web, tier: front}}\n  ports:\n  - {{port: {port}, targetPort: {HTTP}}}\n"
    )
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).expect("a file");
}

fn succeed(said: &Said) -> String {
    assert_eq!((said.code, said.errors.as_str()), (0, ""), "{}", said.out);
    said.out.clone()
}

/// Whether a Service answers at this address.
fn answers(fixture: &Fixture, address: u8, port: u16) -> bool {
    let to = SocketAddr::from(([10, 96, 77, address], port));
    fixture.client().connect(to).and_then(|mut connection| connection.get()).is_ok()
}

#[test]
fn a_directory_is_rehearsed_compared_applied_and_pruned() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let cli = Cli::new(BINARY, fixture.socket());
    let shop = tempfile::tempdir().expect("a directory");
    let path = shop.path().to_str().expect("UTF-8");
    write(shop.path(), "a.yaml", &service("a", 1, 80));
    write(shop.path(), "b.yaml", &service("b", 2, 80));

    // Neither of these changes anything.
    for (flag, how) in
        [("--dry-run=server", "server dry run"), ("--dry-run=client", "dry run"), ("--dry-run", "dry run")]
    {
        let told = succeed(&cli.run(&["apply", "-f", path, flag], ""));
        assert_eq!(told, format!("service/a created ({how})\nservice/b created ({how})\n"));
    }
    let differences = cli.run(&["diff", "-f", path], "");
    assert_eq!(differences.code, 1, "{}", differences.errors);
    assert!(differences.out.contains("+  clusterIP: 10.96.77.1\n"), "{}", differences.out);
    assert!(!answers(&fixture, 1, 80));

    assert_eq!(succeed(&cli.run(&["apply", "-f", path, "--prune"], "")), "service/a created\nservice/b created\n");
    assert!(answers(&fixture, 1, 80) && answers(&fixture, 2, 80));
    assert_eq!(cli.run(&["diff", "-f", path], ""), Said { code: 0, out: String::new(), errors: String::new() });

    // All or nothing, and everything that is wrong at once.
    write(shop.path(), "a.yaml", &service("a", 1, 81));
    let wrong = service("c", 2, 80) + "  sesionAffinity: None\n";
    write(shop.path(), "c.yaml", &wrong);
    let refused = cli.run(&["apply", "-f", path], "");
    let c = format!("{path}/c.yaml");
    let told = format!(
        "{c}:5:14: service/{NAMESPACE}/c: spec.clusterIPs[0]: 10.96.77.2 is in use by service/{NAMESPACE}/b: choose another, or \
         leave it out to get a free one\n{c}:9:3: service/{NAMESPACE}/c: spec.sesionAffinity: unknown field: did you mean \
         `sessionAffinity`?\nerror: 2 errors; nothing was changed\n"
    );
    assert_eq!((refused.code, refused.out.as_str(), refused.errors), (1, "", told));
    assert_eq!(cli.run(&["diff", "-f", path], "").code, 2, "more than a difference");
    assert!(answers(&fixture, 1, 80) && !answers(&fixture, 1, 81));

    // What is no more in the directory goes, in the same transaction in which its address is given to another.
    fs::remove_file(shop.path().join("b.yaml")).expect("it was there");
    write(shop.path(), "c.yaml", &service("c", 2, 82));
    let rehearsed = succeed(&cli.run(&["apply", "-f", path, "--prune", "--dry-run=server"], ""));
    assert!(rehearsed.ends_with("service/b pruned (server dry run)\n"), "{rehearsed}");
    let differences = cli.run(&["diff", "-f", path, "--prune"], "");
    assert!(differences.code == 1 && differences.out.contains("-  name: b\n"), "{}", differences.out);
    assert_eq!(
        succeed(&cli.run(&["apply", "-f", path, "--prune"], "")),
        "service/a configured\nservice/c created\nservice/b pruned\n"
    );
    assert!(answers(&fixture, 1, 81) && answers(&fixture, 2, 82) && !answers(&fixture, 2, 80));
    // What was applied otherwise stays.
    assert!(fixture.client().connect(fixture.cluster()[0]).is_ok());

    assert_eq!(succeed(&cli.run(&["delete", "-f", path], "")), "service \"a\" deleted\nservice \"c\" deleted\n");
    assert!(!answers(&fixture, 1, 81) && !answers(&fixture, 2, 82));
    let again = cli.run(&["delete", "-f", path], "");
    assert_eq!(again.code, 1);
    let told = format!(
        "Error from server (NotFound): service/{NAMESPACE}/a, service/{NAMESPACE}/c not found; nothing was deleted\n"
    );
    assert_eq!(again.errors, told);
    assert_eq!(succeed(&cli.run(&["delete", "-f", path, "--ignore-not-found"], "")), "");
    let answered = traffic::many(fixture.client(), fixture.cluster()[0], 10);
    assert_eq!(answered.len(), 10);
}

#[test]
fn a_watch_tells_what_comes_changes_and_goes() {
    needs_datapath!();
    let fixture = Fixture::new(BINARY, Setup::DEMO);
    let cli = Cli::new(BINARY, fixture.socket());
    let table = cli.start(&["get", "services", "-n", NAMESPACE, "-w"]);
    let names = cli.start(&["get", "services", "-n", NAMESPACE, "-w", "-o", "name"]);
    let columns =
        |line: Option<String>| -> Vec<String> { line.expect("a line").split_whitespace().map(str::to_owned).collect() };
    assert_eq!(columns(table.next_line(SOON))[..3], ["NAME", "TYPE", "CLUSTER-IP"]);
    assert_eq!(columns(table.next_line(SOON))[0], "web");
    assert_eq!(names.next_line(SOON).as_deref(), Some("service/web"));

    for (port, outcome) in [(80, "created"), (81, "configured")] {
        assert_eq!(
            succeed(&cli.run(&["apply", "-f", "-"], &service("late", 9, port))),
            format!("service/late {outcome}\n")
        );
        let row = columns(table.next_line(SOON));
        assert_eq!(row[..3], ["late", "ClusterIP", "10.96.77.9"]);
        assert_eq!(row[4], format!("{port}/TCP"));
        assert_eq!(names.next_line(SOON).as_deref(), Some("service/late"));
    }
    // The same again is no news.
    assert_eq!(succeed(&cli.run(&["apply", "-f", "-"], &service("late", 9, 81))), "service/late unchanged\n");
    succeed(&cli.run(&["delete", "service", "late", "-n", NAMESPACE], ""));
    assert_eq!(names.next_line(SOON).as_deref(), Some("service/late deleted"));
}

#[test]
fn all_that_is_wrong_with_a_watched_file_is_told_and_the_good_one_stays() {
    needs_datapath!();
    let watched = tempfile::tempdir().expect("a directory");
    write(watched.path(), "shop.yaml", &service("shop", 3, 80));
    let argument = format!("--manifests={}", watched.path().display());
    let fixture = Fixture::with(BINARY, Setup::DEMO, &[&argument]);
    let cli = Cli::new(BINARY, fixture.socket());
    assert!(answers(&fixture, 3, 80));
    succeed(&cli.run(&["apply", "-f", "-"], &service("mine", 4, 80)));

    let typo = service("shop", 3, 81).replace("ports:", "prots:");
    write(watched.path(), "shop.yaml", &(typo + "---\n" + &service("other", 4, 80)));
    let deadline = Instant::now() + SOON;
    let status = loop {
        let status = succeed(&cli.run(&["status"], ""));
        if status.contains("prots") || Instant::now() > deadline {
            break status;
        }
    };
    for told in ["spec.prots: unknown field: did you mean `ports`?", "10.96.77.4 is in use by service/playground/mine"]
    {
        assert!(status.contains(told), "{told} is not in:\n{status}");
    }
    assert!(answers(&fixture, 3, 80) && answers(&fixture, 4, 80));
}

#[test]
fn why_a_load_balancer_has_no_address_is_told() {
    needs_datapath!();
    let fixture = Fixture::with(BINARY, Setup::DEMO, &["--load-balancer-pool=public=203.0.113.8"]);
    let cli = Cli::new(BINARY, fixture.socket());
    let balancer = |name: &str| {
        service(name, if name == "first" { 5 } else { 6 }, 80).replace("spec:\n", "spec:\n  type: LoadBalancer\n")
    };
    succeed(&cli.run(&["apply", "-f", "-"], &(balancer("first") + "---\n" + &balancer("second"))));
    let external = |name: &str| {
        let table = succeed(&cli.run(&["get", "service", name, "-n", NAMESPACE], ""));
        table.lines().nth(1).and_then(|row| row.split_whitespace().nth(3)).expect("a row").to_owned()
    };
    assert_eq!([external("first"), external("second")], ["203.0.113.8", "<pending>"]);
    let described = succeed(&cli.run(&["describe", "service", "second", "-n", NAMESPACE], ""));
    let why =
        "no load balancer address: no IPv4 address is free in the pool `public`: add a range, or delete a Service";
    assert!(described.contains(why), "{described}");
    assert!(described.contains("<pending>"), "{described}");
    succeed(&cli.run(&["delete", "service", "first", "-n", NAMESPACE], ""));
    assert_eq!(external("second"), "203.0.113.8");
    let described = succeed(&cli.run(&["describe", "service", "second", "-n", NAMESPACE], ""));
    assert!(!described.contains("no load balancer address"), "{described}");
}
