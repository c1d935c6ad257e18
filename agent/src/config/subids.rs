//! Ids of the host that an administrator has set aside for pods, in the words of subuid(5). Pure.
//!
//! Upstream's kubelet asks `getsubids` for those of the user `kubelet`; this reads the same files.

use orlop_runtime::ids::IdRange;

/// Whose ids they are.
pub(super) const USER: &str = "kubelet";

/// What both files give to [`USER`]; nothing if neither names it.
pub(super) fn pool(subuid: &str, subgid: &str) -> Result<Option<IdRange>, String> {
    let (users, groups) = (range("/etc/subuid", subuid)?, range("/etc/subgid", subgid)?);
    if users != groups {
        return Err(format!("/etc/subuid and /etc/subgid must give the same ids to {USER}"));
    }
    let checked = |(first, count)| IdRange::pool(first, count).map_err(|bad| format!("ids of {USER} {bad}"));
    users.map(checked).transpose()
}

fn range(file: &str, text: &str) -> Result<Option<(u32, u32)>, String> {
    let of_user = |line: &str| Some(line.trim().strip_prefix(USER)?.strip_prefix(':')?.to_owned());
    let mut lines = text.lines().filter_map(of_user);
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(format!("{file} has several ranges for {USER}, there must be one"));
    }
    let numbers =
        line.split_once(':').and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)));
    numbers.map(Some).ok_or_else(|| format!("{file} has no two numbers for {USER}: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(subuid: &str, subgid: &str, expected: &str) {
        let found = match pool(subuid, subgid) {
            Ok(Some(IdRange { first, count })) => format!("{first} {count}"),
            Ok(None) => "none".to_owned(),
            Err(error) => error,
        };
        assert_eq!(found, expected, "{subuid:?} {subgid:?}");
    }

    #[test]
    fn both_files_give_one_aligned_range() {
        let good = "root:1:2\nkubelet:131072:7208960\n";
        check(good, good, "131072 7208960");
        check("root:1:2\nkubelets:1:2\n", "", "none");
        check(good, "", "/etc/subuid and /etc/subgid must give the same ids to kubelet");
        check(
            "kubelet:1:2\nkubelet:3:4",
            "",
            "/etc/subuid has several ranges for kubelet, there must be one",
        );
        check("kubelet:1", "", "/etc/subuid has no two numbers for kubelet: \"1\"");
        let bad = "kubelet:100000:65536";
        let reason =
            "must begin at a multiple of 65536 above 0 and be as long as a multiple of it, below 4294967295";
        check(bad, bad, &format!("ids of kubelet {reason}"));
    }
}
