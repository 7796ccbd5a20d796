package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// useContainer makes a container that the daemon is the first process of, such as that of a managed
// plugin, fit for its work: what Docker mounts on the host later must be seen, since a container
// whose namespace is not is held for gone, and the sysctls of links must be writable. Without such
// a container it does nothing.
func useContainer() error {
	if os.Getpid() != 1 {
		return nil
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("own container: %w", err)
	}
	defer mounts.Close()
	if !hearsHost(mounts) {
		return errors.New("own container: what is mounted below /run on the host is not seen here, so no container's network namespace would be; " +
			"try, on the host: mount --make-rshared /")
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/sys", &st); err != nil {
		return fmt.Errorf("own container: /proc/sys: %w", err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	// The host's own view of it does not change.
	if err := unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("own container: make /proc/sys writable: %w; try: CAP_SYS_ADMIN", err)
	}
	return nil
}

// hearsHost reports whether, by a /proc/PID/mountinfo, mounts below /run or /run/docker come here
// from another mount namespace.
func hearsHost(mountinfo io.Reader) bool {
	hears := map[string]bool{}
	for lines := bufio.NewScanner(mountinfo); lines.Scan(); {
		before, _, _ := strings.Cut(lines.Text(), " - ")
		if f := strings.Fields(before); len(f) > 5 {
			hears[f[4]] = strings.Contains(before, " master:") || strings.Contains(before, " shared:")
		}
	}
	for _, at := range []string{"/run/docker/netns", "/run/docker", "/run", "/"} {
		if h, ok := hears[at]; ok {
			return h
		}
	}
	return false
}
