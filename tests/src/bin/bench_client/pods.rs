//! Pods one at a time, each gone before the next comes; then bursts of many at once, of which the last stays; then one
//! that is resized in place.

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
    Flags, PATIENCE, client, resize,
    seen::{Seen, now},
};

const NAMESPACE: &str = "bench";
/// Requests under way at once in a burst.
const PARALLEL: usize = 8;

pub(crate) async fn run(flags: &Flags) -> Result<Value> {
    let client = client(flags.get("kubeconfig")?).await?;
    let (image, one) = (flags.get("image")?, flags.number("one")?);
    let bursts: Vec<usize> = flags.get("bursts")?.split(',').map(str::parse).collect::<Result<_, _>>()?;
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
        let mut figures = bench.create(&name).await?;
        figures["gone_after"] = bench.delete(&name).await?.into();
        if number > 0 {
            singles.push(figures);
        }
    }
    let mut all = Vec::new();
    for (at, size) in bursts.iter().enumerate() {
        let mut burst = json!({ "size": size, "pods": bench.burst(&format!("burst-{at}"), *size).await? });
        if at + 1 < bursts.len() || flags.get("keep")? == "no" {
            burst["gone_after"] = bench.delete_burst(&format!("burst-{at}"), *size).await?.into();
        }
        all.push(burst);
    }
    let resized = match flags.number("resizes")? {
        0 => Vec::new(),
        times => resize::run(&bench, flags.get("cgroup")?, times).await?,
    };
    Ok(json!({ "one": singles, "bursts": all, "resized": resized }))
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

pub(crate) struct Bench {
    pub(crate) pods: Api<Pod>,
    pub(crate) seen: Seen,
    pub(crate) image: String,
    /// The agent's directory of container logs.
    logs: PathBuf,
}

const CONTAINER: &str = "main";

impl Bench {
    async fn burst(&self, prefix: &str, size: usize) -> Result<Vec<Value>> {
        let all = stream::iter(0..size)
            .map(|number| async move { self.create_only(&format!("{prefix}-{number}")).await })
            .buffer_unordered(PARALLEL);
        let created: Vec<_> = all.try_collect().await?;
        let mut figures = Vec::new();
        for (name, began, committed) in created {
            figures.push(self.figures(&name, began, committed).await?);
        }
        Ok(figures)
    }

    /// Microseconds from the request to delete a pod, with its grace period, until it is gone.
    async fn delete(&self, name: &str) -> Result<u64> {
        let began = now();
        self.pods.delete(name, &DeleteParams::default()).await?;
        let times = self.seen.until(name, |times| times.gone.is_some()).await?;
        Ok(times.gone.unwrap_or_default().saturating_sub(began))
    }

    /// The same of the last of many.
    async fn delete_burst(&self, prefix: &str, size: usize) -> Result<u64> {
        let began = now();
        let params = DeleteParams::default();
        let deleted = stream::iter(0..size)
            .map(|number| {
                let (name, params) = (format!("{prefix}-{number}"), &params);
                async move { self.pods.delete(&name, params).await.map(drop) }
            })
            .buffer_unordered(PARALLEL);
        deleted.try_collect::<Vec<()>>().await?;
        let mut last = began;
        for number in 0..size {
            let times = self.seen.until(&format!("{prefix}-{number}"), |times| times.gone.is_some()).await?;
            last = last.max(times.gone.unwrap_or_default());
        }
        Ok(last - began)
    }

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
            "bound": times.bound, "ready": times.ready, "writes": times.writes, "first_line": self.first_line(name, &times.uid).await?,
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
