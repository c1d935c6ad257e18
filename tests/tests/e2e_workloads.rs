//! Debian's servers as people run them: replaced under traffic, a job with sidecars, a database through a power cut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use orlop_tests::{
    Playground,
    playground::given,
    registry::{Door, REGISTRY, Registry},
    until,
};

/// One set-up for all three: the images are the costly part.
#[test]
#[ignore = "e2e tier"]
fn real_servers_are_replaced_finish_and_come_back() {
    let mut p = Playground::with(&[], &[("ORLOP_PLAIN_HTTP_REGISTRIES", REGISTRY)]);
    let registry = Registry::start(&p, &Door::default());
    for image in ["nginx", "redis", "postgres"] {
        registry.push(&p, &given("ORLOP_DEBIAN_IMAGES"), Some(image), &format!("debian/{image}:12"));
    }
    p.apply(&job(&p.dir.join("out"))).text();
    p.apply(&database(&p.dir.join("db"))).text();
    no_request_fails_while_all_pods_are_replaced(&p);
    sidecars_end_after_their_job(&p);
    drop(registry);
    rows_outlive_the_power(&mut p);
}

/// Every pod says its own name.
fn web() -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: nginx
        image: {REGISTRY}/debian/nginx:12
        command: [sh, -c, 'hostname > /var/www/html/index.html; exec nginx -g \"daemon off;\"']
        readinessProbe: {{httpGet: {{port: 80}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{sleep: {{seconds: 2}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: '{REGISTRY}/debian/nginx:12', command: [sleep, '3600']}}]
"
    )
}

/// A client that asks without pause, each time over a new connection, and what it wrote down.
struct Client {
    process: Child,
    heard: std::path::PathBuf,
}

impl Client {
    fn start(mut command: Command, heard: std::path::PathBuf) -> Self {
        command.stdin(Stdio::null()).stdout(File::create(&heard).unwrap()).stderr(Stdio::inherit());
        Self { process: command.spawn().unwrap(), heard }
    }

    fn answers(&self) -> usize {
        fs::read_to_string(&self.heard).unwrap().lines().count()
    }

    /// The lines; the last one may be cut off.
    fn end(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let text = fs::read_to_string(&self.heard).unwrap();
        let (whole, _) = text.rsplit_once('\n').expect("a line at least");
        whole.lines().map(str::to_owned).collect()
    }
}

fn no_request_fails_while_all_pods_are_replaced(p: &Playground) {
    p.apply(&web()).text();
    p.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"]).text();
    let address = p.kubectl(&["get", "service", "web", "-ojsonpath={.spec.clusterIP}"]).text();
    let names = || -> BTreeSet<String> {
        let names = p.kubectl(&["get", "pods", "-l", "app=web", "-ojsonpath={.items[*].metadata.name}"]);
        names.text().split(' ').map(str::to_owned).collect()
    };
    let mut pods = names();

    let mut from_node = p.inside(1, "curl");
    from_node.args(["-sN", "--rate", "100/s", "--max-time", "2", "-H", "Connection: close"]);
    from_node.args(["-w", "%{onerror}failed: %{errormsg}\n"]);
    from_node.arg(format!("http://{address}/?[1-1000000]"));
    let from_node = Client::start(from_node, p.dir.join("from-node"));
    let ask = format!(
        "while :; do exec 3<>/dev/tcp/{address}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; \
         answer=$(timeout 2 tail -n 1 <&3); echo ${{answer:-nothing}}; exec 3>&-; done"
    );
    let from_pod = Client::start(p.exec_command("client", &["bash", "-c", &ask]), p.dir.join("from-pod"));

    for _ in 0..2 {
        p.kubectl(&["rollout", "restart", "deployment/web"]).text();
        p.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).text();
        pods.extend(names());
        let before = (from_node.answers(), from_pod.answers());
        until("clients go on", Duration::from_secs(10), || {
            let now = (from_node.answers(), from_pod.answers());
            if now.0 > before.0 + 50 && now.1 > before.1 + 50 { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }
    assert!(pods.len() >= 9, "three sets of three: {pods:?}");
    for (client, lines) in [("node", from_node.end()), ("pod", from_pod.end())] {
        let strange: Vec<_> = lines.iter().filter(|line| !pods.contains(*line)).collect();
        assert!(
            strange.is_empty(),
            "from the {client}, {} of {}: {:?}",
            strange.len(),
            lines.len(),
            strange.first()
        );
        let heard: BTreeSet<_> = lines.iter().cloned().collect();
        assert_eq!(heard, pods, "every pod answered the {client}, of {} requests", lines.len());
    }
    p.kubectl(&["delete", "deployment/web", "service/web", "pod/client"]).text();
}

/// A main container that fails at first, with a cache beside it that has to outlive it, and a watcher that has to end before
/// the cache.
fn job(out: &Path) -> String {
    let image = format!("{REGISTRY}/debian/redis:12");
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: job}}
spec:
  restartPolicy: OnFailure
  volumes: [{{name: out, hostPath: {{path: {}, type: DirectoryOrCreate}}}}]
  initContainers:
  - name: cache
    image: {image}
    restartPolicy: Always
    startupProbe: {{exec: {{command: [redis-cli, ping]}}, periodSeconds: 1}}
  - name: watcher
    image: {image}
    restartPolicy: Always
    securityContext: {{runAsUser: 0}}
    command: [sh, -c, 'trap \"sleep 2; redis-cli get sum > /out/sum; exit 0\" TERM; while :; do sleep 0.1; done']
    volumeMounts: [{{name: out, mountPath: /out}}]
  containers:
  - name: work
    image: {image}
    command: [sh, -c, 'tries=$(redis-cli incr tries); [ $tries = 2 ] || exit 3; seq 1000 | sed \"s/^/incrby sum /\" | redis-cli > /dev/null']
",
        out.display()
    )
}

fn sidecars_end_after_their_job(p: &Playground) {
    p.wait_for(&["get", "pod", "job", "-ojsonpath={.status.phase}"], |phase| phase == "Succeeded");
    let status = &p.get(&["pod", "job"])["status"];
    let of = |list: &str, name: &str| {
        let all = status[list].as_array().unwrap();
        let one = all.iter().find(|container| container["name"] == name).unwrap();
        let ended = &one["state"]["terminated"];
        (
            one["restartCount"].as_u64().unwrap(),
            ended["exitCode"].as_u64().unwrap(),
            ended["finishedAt"].as_str().unwrap().to_owned(),
        )
    };
    let (work, watcher, cache) = (
        of("containerStatuses", "work"),
        of("initContainerStatuses", "watcher"),
        of("initContainerStatuses", "cache"),
    );
    assert_eq!((work.0, work.1), (1, 0), "tried twice");
    assert_eq!((watcher.0, watcher.1), (0, 0), "it had its grace");
    assert_eq!((cache.0, cache.1), (0, 0));
    assert!(work.2 < watcher.2 && watcher.2 <= cache.2, "{} {} {}", work.2, watcher.2, cache.2);
    // The cache answered when all others had been told to end.
    assert_eq!(fs::read_to_string(p.dir.join("out/sum")).unwrap(), "500500\n");
    assert!(p.kubectl(&["logs", "job", "-c", "cache"]).text().contains("ready to exit, bye bye"));
    assert_eq!(
        p.kubectl(&["get", "pod", "job", "--no-headers"]).text().split_whitespace().nth(2),
        Some("Completed")
    );
}

/// One of a StatefulSet, by hand.
fn database(data: &Path) -> String {
    let image = format!("{REGISTRY}/debian/postgres:12");
    format!(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: data}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  hostPath: {{path: {}, type: DirectoryOrCreate}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data-db-0}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: '', resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: db-0}}
spec:
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data-db-0}}}}]
  initContainers:
  - name: owner
    image: {image}
    command: [chown, postgres, /var/lib/postgresql]
    securityContext: {{runAsUser: 0}}
    volumeMounts: [{{name: data, mountPath: /var/lib/postgresql}}]
  containers:
  - name: postgres
    image: {image}
    readinessProbe: {{exec: {{command: [pg_isready]}}, periodSeconds: 1}}
    volumeMounts: [{{name: data, mountPath: /var/lib/postgresql}}]
",
        data.display()
    )
}

fn rows_outlive_the_power(p: &mut Playground) {
    let ready = |p: &Playground| {
        p.wait_for(&["get", "pod", "db-0", "-ojsonpath={.status.containerStatuses[0].ready}"], |ready| {
            ready == "true"
        });
    };
    let query = |p: &Playground, text: &str| p.exec("db-0", &["psql", "-Atqc", text]).text();
    ready(p);
    let uid = p.kubectl(&["get", "pod", "db-0", "-ojsonpath={.metadata.uid}"]).text();
    query(p, "CREATE TABLE t (n int primary key)");

    // Row by row, and each is written down only when the database has said that it has it.
    let insert = "n=0; while n=$((n+1)) && psql -qc \"INSERT INTO t VALUES ($n)\"; do echo $n; done";
    let writer = Client::start(p.exec_command("db-0", &["sh", "-c", insert]), p.dir.join("rows"));
    let more_than = |count: usize| {
        until("rows are written", Duration::from_secs(20), || {
            if writer.answers() > count { Ok(()) } else { Err(writer.answers().to_string()) }
        });
    };
    more_than(20);
    p.kill_agent(1);
    more_than(writer.answers() + 20);
    p.up();
    ready(p);
    let said =
        p.kubectl(&["get", "pod", "db-0", "-ojsonpath={.status.containerStatuses[0].restartCount}"]).text();
    assert_eq!(said, "0", "a dead agent is no reason to restart a database");
    more_than(writer.answers() + 20);

    p.power_off(1);
    let acknowledged = writer.end();
    p.up();
    ready(p);
    let rows = query(p, "SELECT n FROM t ORDER BY n");
    let rows: Vec<_> = rows.lines().map(str::to_owned).collect();
    assert!(rows.starts_with(&acknowledged), "{} said to be there, {} are", acknowledged.len(), rows.len());
    // The row whose acknowledgement was cut off may be there too.
    assert!(rows.len() <= acknowledged.len() + 1, "{} of {}", rows.len(), acknowledged.len());
    let pod = p.get(&["pod", "db-0"]);
    assert_eq!(pod["metadata"]["uid"], *uid, "the same object");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(query(p, "SELECT pg_is_in_recovery()"), "f\n");
    let name = p.exec("db-0", &["hostname"]).text();
    assert_eq!(name, "db-0\n");
    assert!(p.dir.join("db/data/PG_VERSION").exists(), "the data is where the volume says");
}
