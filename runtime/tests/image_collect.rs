//! What garbage collection finds in the store, and what it leaves.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod image_support;

use std::{collections::BTreeMap, fs, time::Duration};

use image_support::{Bench, Tar, With, layer, layout};
use jiff::Timestamp;
use orlop_runtime::image::{Choice, Goal, Image, Images, Pin, Thresholds, choose};

impl Bench {
    /// An image with a layer of its own and one that all share.
    fn load(&self, name: &str) -> Image {
        let layers = ["shared", name].map(|text| layer(&Tar::new().file("f", text).bytes(), With::Gzip));
        let path = self.dir.path().join("layout");
        drop(fs::remove_dir_all(&path));
        layout(&path, Some(&format!("x.io/{name}:1")), &layers);
        self.images.load(&path).unwrap().remove(0)
    }

    fn choose(&self, needed: &[&str], now: Timestamp) -> Choice {
        let needed: BTreeMap<_, _> =
            needed.iter().map(|image| ((*image).to_owned(), "pod n/p".to_owned())).collect();
        let candidates = self.images.candidates(&needed, now).unwrap();
        choose(candidates, self.images.usage().unwrap(), &Thresholds::default(), Goal::Unused, now)
    }

    fn left(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.images.list().unwrap().into_iter().flat_map(|image| image.tags).collect();
        names.sort();
        names
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.dir.path().join("store/layers")).unwrap().count()
    }
}

fn later() -> Timestamp {
    Timestamp::now() + Duration::from_secs(600)
}

fn explain(choice: &Choice) -> Vec<String> {
    let name = |names: &[String]| names.iter().find(|name| !name.contains('@')).unwrap().clone();
    let gone = choice.remove.iter().map(|(image, why)| format!("- {}: {why}", name(&image.names)));
    let kept = choice.keep.iter().map(|(image, why)| format!("  {}: {why}", name(&image.names)));
    let mut lines: Vec<_> = gone.chain(kept).collect();
    lines.sort();
    lines
}

#[test]
fn only_what_nobody_needs_goes_and_shared_layers_stay() {
    let bench = Bench::open();
    let [by_name, _by_id, held, pinned, unused] =
        ["byname", "byid", "held", "pinned", "unused"].map(|name| bench.load(name));
    bench.images.hold("dead-container", &[&held]).unwrap();
    let pin = Pin { by: "base.tar".into(), images: vec![pinned.id.clone()], stamp: String::new() };
    bench.images.pin(&pin).unwrap();
    // As a pod writes it: the store knows it by another spelling.
    let by_digest = by_name.digests[0].clone();
    let id = bench.images.get("x.io/byid:1").unwrap().unwrap().id;
    let choice = bench.choose(&[&by_digest, &id, "not:here", "::"], later());
    assert_eq!(
        explain(&choice),
        [
            "  x.io/byid:1: needed by pod n/p",
            "  x.io/byname:1: needed by pod n/p",
            "  x.io/held:1: needed by container dead-container",
            "  x.io/pinned:1: pinned by base.tar",
            "- x.io/unused:1: unused",
        ]
    );
    let collected = bench.images.collect(&choice);
    assert!(collected.failures.is_empty() && collected.removed[0].id == unused.id);
    assert_eq!(bench.left(), ["x.io/byid:1", "x.io/byname:1", "x.io/held:1", "x.io/pinned:1"]);
    assert_eq!(bench.layers(), 5);
    // The container is removed, the file is taken away.
    bench.images.release("dead-container").unwrap();
    bench.images.unpin("base.tar").unwrap();
    bench.images.collect(&bench.choose(&[], later()));
    assert_eq!((bench.left().len(), bench.layers()), (0, 0));
    assert_eq!(fs::read_dir(bench.dir.path().join("store/used")).unwrap().count(), 0);
}

#[test]
fn a_container_that_starts_meanwhile_keeps_its_image() {
    let bench = Bench::open();
    let image = bench.load("a");
    let choice = bench.choose(&[], later());
    assert_eq!(choice.remove.len(), 1);
    bench.images.hold("container", &[&image]).unwrap();
    let collected = bench.images.collect(&choice);
    assert!(collected.removed.is_empty() && collected.failures.is_empty());
    assert_eq!(bench.left(), ["x.io/a:1"]);
}

#[test]
fn young_images_stay_and_last_uses_outlive_the_process() {
    let bench = Bench::open();
    bench.load("a");
    assert_eq!(explain(&bench.choose(&[], Timestamp::now())).len(), 1);
    assert!(bench.choose(&[], Timestamp::now()).remove.is_empty());
    let at = later();
    bench.choose(&["x.io/a:1"], at);
    let again = Images::open(bench.dir.path().join("store")).unwrap();
    let found = again.candidates(&BTreeMap::new(), at).unwrap();
    assert_eq!(found[0].used.unwrap().as_second(), at.as_second());
    assert_eq!(found[0].needed_by, None);
    let needed = BTreeMap::from([("x.io/a:1".to_owned(), "pod n/p".to_owned())]);
    again.set_needed(&needed).unwrap();
    assert_eq!(bench.images.needed(), needed);
}
