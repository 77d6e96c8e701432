//! Where NVRTC may lie: what the user names, CUDA toolkits, and the folders of Python packages. Only looks at files.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Environment variable with NVRTC's library, or the folder that has it; nothing else is looked at then.
pub const VARIABLE: &str = "FUSED_LSTM_NVRTC";

/// Folders within a toolkit that hold its libraries.
const OF_TOOLKIT: [&str; 5] = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", ""];

/// Folders within a Python environment's packages where the package `nvidia-cuda-nvrtc` and its forerunners put it.
const OF_PACKAGES: [&str; 2] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];

/// What a search came to.
#[derive(Debug, Default)]
pub struct Search {
    /// Libraries, the first choice first.
    pub libraries: Vec<PathBuf>,
    /// Every place that was looked at.
    pub places: Vec<PathBuf>,
}

impl Search {
    /// Looks in `root` and those `folders` of it.
    fn look(&mut self, root: PathBuf, folders: &[&str]) {
        if self.places.contains(&root) {
            return;
        }
        for folder in folders {
            self.libraries.extend(libraries(&root.join(folder), "libnvrtc.so"));
        }
        self.places.push(root);
    }

    /// Says which files the libraries are, by place, length and time of change: what a library makes can be kept under
    /// this without opening it, which its version could not. Other libraries, or a new release in one's place, give
    /// another text.
    pub fn identity(&self) -> String {
        self.libraries.iter().map(|library| identity(library)).collect()
    }
}

fn identity(library: &Path) -> String {
    // What a link leads to, for a toolkit's usual place is one.
    let place = fs::canonicalize(library).unwrap_or_else(|_| library.to_path_buf());
    let about = fs::metadata(&place).ok();
    let changed = about.as_ref().and_then(|about| about.modified().ok()?.duration_since(UNIX_EPOCH).ok());
    let length = about.map_or(0, |about| about.len());
    format!("{place:?} {length} {}\n", changed.unwrap_or_default().as_nanos())
}

/// Looks in all places: a toolkit, then the system's libraries, then Python's packages.
pub fn search() -> Search {
    match env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        Some(place) => named(Path::new(&place)),
        None => everywhere(),
    }
}

/// Looks at a library, or in a folder, that the user named.
pub fn named(place: &Path) -> Search {
    let mut search = Search::default();
    if place.is_file() {
        search.libraries.push(place.to_path_buf());
    }
    search.look(place.to_path_buf(), &[&[""], &OF_TOOLKIT[..], &OF_PACKAGES].concat());
    search
}

fn everywhere() -> Search {
    let mut search = Search::default();
    for toolkit in toolkits() {
        search.look(toolkit, &OF_TOOLKIT);
    }
    for folder in system_folders() {
        search.look(folder, &[""]);
    }
    for packages in python_environments().iter().flat_map(|environment| packages_of(environment)) {
        search.look(packages, &OF_PACKAGES);
    }
    search
}

/// Files in `folder` whose names open with `stem`, the newest version first.
pub fn libraries(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let matches = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // `.alt` marks a second build of the same library for special needs.
        name.starts_with(stem) && !name.contains(".alt.")
    };
    let mut files: Vec<PathBuf> = children(folder).into_iter().filter(|path| matches(path)).collect();
    files.sort_by_key(|file| std::cmp::Reverse(version(file)));
    files
}

/// Numbers at the end of a library's name: `[13, 0]` of `libnvrtc-builtins.so.13.0`.
fn version(library: &Path) -> Vec<u32> {
    let name = library.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let numbers = name.split_once(".so").map_or("", |(_, numbers)| numbers);
    numbers.split('.').filter_map(|number| number.parse().ok()).collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn folders_in_variable(name: &str) -> Vec<PathBuf> {
    let folders = env::var_os(name).map(|value| env::split_paths(&value).collect::<Vec<_>>()).unwrap_or_default();
    folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()).collect()
}

fn toolkits() -> Vec<PathBuf> {
    let mut toolkits: Vec<PathBuf> = ["CUDA_PATH", "CUDA_HOME"].into_iter().flat_map(folders_in_variable).collect();
    toolkits.extend(["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from));
    let versions = children(Path::new("/usr/local")).into_iter().rev();
    toolkits.extend(versions.filter(|path| path.to_string_lossy().starts_with("/usr/local/cuda-")));
    toolkits
}

fn system_folders() -> Vec<PathBuf> {
    let mut folders = folders_in_variable("LD_LIBRARY_PATH");
    let fixed = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    folders.extend(fixed.map(PathBuf::from));
    folders
}

/// The environment that is switched on, those of every Python on PATH, the user's own and the system's.
fn python_environments() -> Vec<PathBuf> {
    let mut environments: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().flat_map(folders_in_variable).collect();
    for folder in folders_in_variable("PATH") {
        for python in [folder.join("python3"), folder.join("python")] {
            // A Python is often a link into the environment it belongs to.
            let real = fs::canonicalize(&python).ok();
            let of = |python: &Path| python.parent().and_then(Path::parent).map(Path::to_path_buf);
            environments.extend(real.iter().flat_map(|real| [of(&python), of(real)]).flatten());
        }
    }
    environments.extend(env::home_dir().map(|home| home.join(".local")));
    environments.extend(["/usr/local", "/usr"].map(PathBuf::from));
    environments
}

/// The folders with an environment's packages.
fn packages_of(environment: &Path) -> Vec<PathBuf> {
    let pythons = children(&environment.join("lib")).into_iter().rev();
    let is_python = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"));
    let packages = pythons.filter(is_python).flat_map(|p| [p.join("site-packages"), p.join("dist-packages")]);
    packages.filter(|folder| folder.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(file: &Path) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }

    #[test]
    fn the_newest_library_of_a_folder_comes_first_and_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libnvrtc.so.9", "libnvrtc.so.13", "libnvrtc.alt.so.13", "libnvrtc-builtins.so.13.0", "libm.so"] {
            touch(&folder.path().join(name));
        }
        let names = |stem| {
            let files = libraries(folder.path(), stem).into_iter();
            files.map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("libnvrtc.so"), ["libnvrtc.so.13", "libnvrtc.so.9"]);
        assert_eq!(names("libnvrtc-builtins.so"), ["libnvrtc-builtins.so.13.0"]);
    }

    #[test]
    fn a_named_place_is_a_file_a_folder_a_toolkit_or_a_package_folder() {
        let folder = tempfile::tempdir().unwrap();
        for within in ["", "lib64", "nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"] {
            let root = folder.path().join(format!("root of {}", within.replace('/', " ")));
            let library = root.join(within).join("libnvrtc.so.13");
            touch(&library);
            assert_eq!(named(&root).libraries.first(), Some(&library));
            assert_eq!(named(&library).libraries.first(), Some(&library));
        }
        let nowhere = folder.path().join("nowhere");
        assert!(named(&nowhere).libraries.is_empty());
        assert_eq!(named(&nowhere).places, [nowhere]);
    }

    #[test]
    fn the_identity_changes_with_place_length_time_and_order() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("libnvrtc.so.12"), folder.path().join("libnvrtc.so.13"));
        touch(&one);
        touch(&two);
        let set_time = |time| fs::File::options().write(true).open(&one).unwrap().set_modified(time).unwrap();
        // So that they differ in nothing but their place.
        set_time(fs::metadata(&two).unwrap().modified().unwrap());
        let of = |libraries: &[&PathBuf]| {
            let libraries = libraries.iter().map(|&library| library.clone()).collect();
            Search { libraries, places: Vec::new() }.identity()
        };
        let first = of(&[&one]);
        assert_eq!(of(&[&one]), first);
        assert_ne!(of(&[&two]), first);
        assert_ne!(of(&[&one, &two]), of(&[&two, &one]));
        fs::write(&one, "longer").unwrap();
        let longer = of(&[&one]);
        assert_ne!(longer.split(' ').nth(1), first.split(' ').nth(1));
        let later = fs::metadata(&one).unwrap().modified().unwrap() + std::time::Duration::from_micros(1);
        set_time(later);
        assert_ne!(of(&[&one]), longer);
        fs::remove_file(&one).unwrap();
        assert_ne!(of(&[&one]), first, "a library that is gone");
    }

    #[cfg(unix)]
    #[test]
    fn the_identity_follows_links() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("libnvrtc.so.13.0.88"), folder.path().join("libnvrtc.so.13"));
        touch(&file);
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let of = |library: &Path| Search { libraries: vec![library.to_path_buf()], places: Vec::new() }.identity();
        assert_eq!(of(&link), of(&file));
    }

    #[test]
    fn packages_of_an_environment_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("lib/python3.12/site-packages");
        fs::create_dir_all(&packages).unwrap();
        assert_eq!(packages_of(folder.path()), [packages]);
    }
}
