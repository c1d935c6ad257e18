//! How much room there is in a volume.

use orlop_cri_api::csi::{
    NodeGetVolumeStatsRequest, node_service_capability::rpc::Type as Rpc, volume_usage::Unit,
};

use super::{
    Csi,
    places::{RECORD, read, text},
};

/// Free and used room of a volume, as its driver counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes: all, free, used.
    pub bytes: (i64, i64, i64),
    /// Files: all, free, used.
    pub inodes: (i64, i64, i64),
}

impl Csi {
    /// The room in a volume of a pod, by the name of the persistent volume; nothing where the driver does not count.
    pub async fn room(&self, uid: &str, name: &str) -> Option<Room> {
        let dir = self.pods().join(uid).join("volumes/kubernetes.io~csi").join(name);
        let data = read(&dir.join(RECORD))?;
        let driver = self.driver(&data.driver_name).ok().filter(|driver| driver.can(Rpc::GetVolumeStats))?;
        let request = NodeGetVolumeStatsRequest {
            volume_id: data.volume_handle,
            volume_path: text(&dir.join("mount")),
            staging_target_path: String::new(),
        };
        let mut room = Room::default();
        for usage in driver.stats(request).await.ok()?.usage {
            let amounts = (usage.total, usage.available, usage.used);
            match usage.unit() {
                Unit::Bytes => room.bytes = amounts,
                Unit::Inodes => room.inodes = amounts,
                Unit::Unknown => {}
            }
        }
        Some(room)
    }
}
