//! The watched directory, on a real file system.

use lb_ctl::source::{Directory, Source};
use lb_ctl::store::{Snapshot, SourceId, Update};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
}

/// A directory being watched.
struct Watched {
    folder: TempDir,
    updates: mpsc::Receiver<Update>,
}

impl Watched {
    fn start(files: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let (sender, updates) = mpsc::channel(16);
        let directory = Directory::open(folder.path(), "default").unwrap();
        tokio::spawn(directory.run(sender));
        Self { folder, updates }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The next update, as `name: objects`, `name: bad` or `name: gone`.
    async fn next(&mut self) -> Vec<String> {
        let update = timeout(Duration::from_secs(20), self.updates.recv()).await.expect("no update came").unwrap();
        update.changes.iter().map(|(source, snapshot)| shown(source, snapshot)).collect()
    }

    async fn nothing_comes(&mut self) {
        let update = timeout(Duration::from_millis(700), self.updates.recv()).await;
        assert!(update.is_err(), "{update:?}");
    }
}

fn shown(source: &SourceId, snapshot: &Snapshot) -> String {
    let SourceId::File(path) = source else { panic!("{source}") };
    let name = path.file_name().unwrap().to_str().unwrap();
    match snapshot {
        Snapshot::Objects(parsed) if !parsed.errors.is_empty() => format!("{name}: bad"),
        Snapshot::Objects(parsed) => {
            let names = parsed.objects.iter().map(|located| located.object.metadata().name.as_str());
            format!("{name}: {}", names.collect::<Vec<_>>().join(" "))
        }
        Snapshot::Gone => format!("{name}: gone"),
    }
}

#[tokio::test]
async fn the_first_update_tells_all_files_in_the_order_of_their_names() {
    let mut watched = Watched::start(&[
        ("b.yml", &service("b")),
        ("a.yaml", &service("a")),
        (".c.yaml", "?"),
        ("d.txt", "?"),
        ("e.json", "{"),
    ]);
    fs::create_dir(watched.path().join("f.yaml")).unwrap();
    let update = watched.updates.recv().await.unwrap();
    assert!(update.synced && update.feed.starts_with("directory:/"));
    let changes: Vec<String> = update.changes.iter().map(|(source, snapshot)| shown(source, snapshot)).collect();
    assert_eq!(changes, ["a.yaml: a", "b.yml: b", "e.json: bad"]);
}

#[tokio::test]
async fn an_empty_directory_is_synced_too() {
    let mut watched = Watched::start(&[]);
    let update = watched.updates.recv().await.unwrap();
    assert!(update.synced && update.changes.is_empty());
}

#[tokio::test]
async fn changes_replacements_and_removals_are_told() {
    let mut watched = Watched::start(&[("a.yaml", &service("a"))]);
    watched.next().await;
    fs::write(watched.path().join("a.yaml"), service("a2")).unwrap();
    assert_eq!(watched.next().await, ["a.yaml: a2"]);
    // As careful editors and tools do it.
    fs::write(watched.path().join(".a.yaml.new"), service("a3")).unwrap();
    fs::rename(watched.path().join(".a.yaml.new"), watched.path().join("a.yaml")).unwrap();
    assert_eq!(watched.next().await, ["a.yaml: a3"]);
    fs::rename(watched.path().join("a.yaml"), watched.path().join("b.yaml")).unwrap();
    assert_eq!(watched.next().await, ["a.yaml: gone", "b.yaml: a3"]);
    fs::write(watched.path().join("b.yaml"), "kind: [").unwrap();
    assert_eq!(watched.next().await, ["b.yaml: bad"]);
    fs::remove_file(watched.path().join("b.yaml")).unwrap();
    assert_eq!(watched.next().await, ["b.yaml: gone"]);
}

#[tokio::test]
async fn what_is_no_change_is_not_told() {
    let mut watched = Watched::start(&[("a.yaml", &service("a"))]);
    watched.next().await;
    fs::write(watched.path().join("a.yaml"), service("a")).unwrap();
    fs::write(watched.path().join(".a.yaml.swp"), "x").unwrap();
    fs::write(watched.path().join("a.yaml~"), "x").unwrap();
    watched.nothing_comes().await;
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_written() {
    let mut watched = Watched::start(&[]);
    watched.next().await;
    let mut file = fs::File::create(watched.path().join("a.yaml")).unwrap();
    file.write_all(service("first").as_bytes()).unwrap();
    watched.nothing_comes().await;
    file.write_all(format!("---\n{}", service("second")).as_bytes()).unwrap();
    drop(file);
    assert_eq!(watched.next().await, ["a.yaml: first second"]);
}

#[tokio::test]
async fn a_link_that_is_switched_is_followed() {
    let mut watched = Watched::start(&[]);
    watched.next().await;
    let versions = TempDir::new().unwrap();
    for version in ["1", "2"] {
        fs::create_dir(versions.path().join(version)).unwrap();
        fs::write(versions.path().join(version).join("a.yaml"), service(&format!("v{version}"))).unwrap();
    }
    // As the kubelet lays out a ConfigMap.
    let data = watched.path().join("..data");
    std::os::unix::fs::symlink(versions.path().join("1"), &data).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", watched.path().join("a.yaml")).unwrap();
    assert_eq!(watched.next().await, ["a.yaml: v1"]);
    std::os::unix::fs::symlink(versions.path().join("2"), watched.path().join("..next")).unwrap();
    fs::rename(watched.path().join("..next"), data).unwrap();
    assert_eq!(watched.next().await, ["a.yaml: v2"]);
}

#[tokio::test]
async fn a_directory_that_goes_keeps_its_objects_and_may_return() {
    let mut watched = Watched::start(&[("a.yaml", &service("a"))]);
    watched.next().await;
    let folder = watched.path().to_owned();
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let aside = folder.with_extension("aside");
    fs::rename(&folder, &aside).unwrap();
    let mut told = Vec::new();
    while told.is_empty() {
        // The watch moves along with the directory, so that nothing may be told until the next change in it.
        fs::write(aside.join("b.txt"), "x").unwrap();
        told = watched.next().await;
    }
    assert_eq!(told, [format!("{name}: bad")]);
    let another = folder.with_extension("another");
    fs::create_dir(&another).unwrap();
    fs::write(another.join("a.yaml"), service("new")).unwrap();
    // All at once, and old enough not to be taken for half written.
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::rename(&another, &folder).unwrap();
    assert_eq!(watched.next().await, [format!("{name}: gone"), "a.yaml: new".to_owned()]);
    fs::write(folder.join("a.yaml"), service("newer")).unwrap();
    assert_eq!(watched.next().await, ["a.yaml: newer"]);
    fs::remove_dir_all(aside).unwrap();
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let folder = TempDir::new().unwrap();
    let (sender, mut updates) = mpsc::channel(1);
    let task = tokio::spawn(Directory::open(folder.path(), "default").unwrap().run(sender));
    updates.recv().await.unwrap();
    drop(updates);
    timeout(Duration::from_secs(5), task).await.expect("it goes on").unwrap().unwrap();
}

#[test]
fn what_is_no_directory_is_refused_with_the_remedy() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("manifests");
    let told = |path: &Path| Directory::open(path, "default").unwrap_err().to_string();
    assert_eq!(
        told(&missing),
        format!(
            "the manifest directory {0} does not exist: create it (`mkdir -p {0}`) or name another with --manifests",
            missing.display()
        )
    );
    fs::write(&missing, "").unwrap();
    assert!(told(&missing).contains("is not a directory"));
}
