//! Pods one at a time, each gone before the next comes, and then many at once, which stay.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    Flags, PATIENCE, client,
    seen::{Seen, now},
};

const NAMESPACE: &str = "bench";
/// Requests under way at once in a burst.
const PARALLEL: usize = 8;

pub(crate) async fn run(flags: &Flags) -> Result<Value> {
    let client = client(flags.get("kubeconfig")?).await?;
    let (image, one, burst) = (flags.get("image")?, flags.number("one")?, flags.number("burst")?);
    prepare(&client).await?;
    let bench = Bench {
        image: image.to_owned(),
        logs: flags.get("logs")?.into(),
        seen: Seen::follow(&Api::namespaced(client.clone(), NAMESPACE)).await?,
        pods: Api::namespaced(client, NAMESPACE),
    };
    let mut singles = Vec::new();
    // The first pays for what is made once; it does not count.
    for number in 0..=one {
        let name = format!("one-{number}");
        let figures = bench.create(&name).await?;
        if number > 0 {
            singles.push(figures);
        }
        bench.pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        bench.seen.until(&name, |times| times.gone).await?;
    }
    let all = stream::iter(0..burst)
        .map(|number| {
            let bench = &bench;
            async move { bench.create_only(&format!("burst-{number}")).await }
        })
        .buffer_unordered(PARALLEL);
    let created: Vec<_> = all.try_collect().await?;
    let mut many = Vec::new();
    for (name, began, committed) in created {
        many.push(bench.figures(&name, began, committed).await?);
    }
    Ok(json!({ "one": singles, "burst": many }))
}

/// The namespace and, in it, the account that its pods run as.
async fn prepare(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    if namespaces.get_opt(NAMESPACE).await?.is_none() {
        let namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } }))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let there = |account: Option<&ServiceAccount>| account.is_some();
    kube::runtime::wait::await_condition(accounts, "default", there).await?;
    Ok(())
}

struct Bench {
    pods: Api<Pod>,
    seen: Seen,
    image: String,
    /// The agent's directory of container logs.
    logs: PathBuf,
}

const CONTAINER: &str = "main";

impl Bench {
    async fn create(&self, name: &str) -> Result<Value> {
        let (name, began, committed) = self.create_only(name).await?;
        self.figures(&name, began, committed).await
    }

    /// The name, and the times before and after the call.
    async fn create_only(&self, name: &str) -> Result<(String, u64, u64)> {
        let pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app": "bench" } },
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": CONTAINER, "image": self.image, "imagePullPolicy": "IfNotPresent" }],
            },
        }))?;
        let began = now();
        self.pods.create(&PostParams::default(), &pod).await?;
        Ok((name.to_owned(), began, now()))
    }

    async fn figures(&self, name: &str, began: u64, committed: u64) -> Result<Value> {
        let times = self.seen.until(name, |times| times.ready.is_some()).await?;
        Ok(json!({
            "name": name, "uid": times.uid, "created": began, "committed": committed,
            "bound": times.bound, "ready": times.ready, "first_line": self.first_line(name, &times.uid).await?,
        }))
    }

    /// What the container wrote first, with the time at which it was written.
    async fn first_line(&self, name: &str, uid: &str) -> Result<String> {
        let path = self.logs.join(format!("{NAMESPACE}_{name}_{uid}")).join(CONTAINER).join("0.log");
        let began = Instant::now();
        loop {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            if let Some((line, _)) = log.split_once('\n') {
                return Ok(line.to_owned());
            }
            if began.elapsed() > PATIENCE {
                bail!("nothing in {}", path.display());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
