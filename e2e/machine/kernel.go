package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Kernel is a User-Mode Linux that guests boot.
type Kernel struct {
	// Command starts it; the words of its command line follow.
	Command []string
	// Modules is the folder of its modules, with their index.
	Modules string
}

// The guests' kernels. sid's takes the system calls of guests by seccomp, without a switch
// between processes for each: containers start in a third of the time.
const (
	newKernel = "sid"
	oldKernel = "bookworm"
)

// GuestKernel is the kernel that guests boot: sid's, or Debian 12's own where LANYARD_KERNEL
// is "bookworm". Prepare brings both.
func GuestKernel() (Kernel, error) {
	suite := os.Getenv("LANYARD_KERNEL")
	switch suite {
	case "":
		suite = newKernel
	case newKernel, oldKernel:
	default:
		return Kernel{}, fmt.Errorf("LANYARD_KERNEL=%q: there are %s and %s", suite, newKernel, oldKernel)
	}
	modules, err := filepath.Glob(filepath.Join(Cache, "modules", suite, "lib/modules/*/modules.dep"))
	if err != nil || len(modules) == 0 {
		return Kernel{}, fmt.Errorf("no modules of the guests' kernel in %s; try: labctl prepare", Cache)
	}
	k := Kernel{Modules: filepath.Dir(modules[len(modules)-1])}
	if suite == oldKernel {
		k.Command = []string{"/usr/bin/linux.uml"}
		return k, nil
	}
	k.Command = []string{"env", "LD_LIBRARY_PATH=" + kernelRoot() + "/usr/lib/x86_64-linux-gnu", kernelRoot() + "/linux.uml", "seccomp=on"}
	return k, nil
}

func kernelRoot() string { return filepath.Join(Cache, "kernel", newKernel) }

// interpreter is the dynamic linker in programs, and a shorter name for sid's, which they
// are given: sid's kernel needs a newer libc than Debian 12 has.
const (
	interpreter    = "/lib64/ld-linux-x86-64.so.2"
	newInterpreter = Cache + "/ld"
)

// prepareKernels brings both kernels.
func prepareKernels(ctx context.Context, say func(string, ...any)) error {
	if err := indexModules(ctx, oldKernel, "/usr/lib/uml/modules"); err != nil {
		return err
	}
	root := kernelRoot()
	if _, err := os.Stat(filepath.Join(root, "usr/bin/linux.uml")); err != nil {
		say("downloading the guests' kernel (Debian %s; unpacked, not installed)", newKernel)
		if err := fetch(ctx, newKernel, []string{"user-mode-linux", "libc6"}, root); err != nil {
			return fmt.Errorf("the guests' kernel: %w", err)
		}
	}
	if err := giveInterpreter(root); err != nil {
		return fmt.Errorf("the guests' kernel: %w", err)
	}
	return indexModules(ctx, newKernel, filepath.Join(root, "usr/lib/uml/modules"))
}

// giveInterpreter makes the kernel's program with the name of sid's dynamic linker, once: a
// guest of another process may boot by both now.
func giveInterpreter(root string) error {
	made := filepath.Join(root, "linux.uml")
	if _, err := os.Stat(made); err == nil {
		return nil
	}
	program, err := os.ReadFile(filepath.Join(root, "usr/bin/linux.uml"))
	if err != nil {
		return err
	}
	if err := os.Remove(newInterpreter); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Join(root, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), newInterpreter); err != nil {
		return err
	}
	given := make([]byte, len(interpreter)+1)
	copy(given, newInterpreter)
	if err := os.WriteFile(made+".new", bytes.Replace(program, []byte(interpreter+"\x00"), given, 1), 0o755); err != nil {
		return err
	}
	return os.Rename(made+".new", made)
}

// indexModules copies a kernel's modules to a folder where depmod may write beside them.
func indexModules(ctx context.Context, suite, where string) error {
	from, err := filepath.Glob(filepath.Join(where, "*/kernel"))
	if err != nil || len(from) == 0 {
		return fmt.Errorf("package user-mode-linux has no modules in %s", where)
	}
	slices.Sort(from)
	dir := filepath.Dir(from[len(from)-1])
	version := filepath.Base(dir)
	base := filepath.Join(Cache, "modules", suite)
	to := filepath.Join(base, "lib/modules", version)
	if _, err := os.Stat(filepath.Join(to, "modules.dep")); err == nil {
		return nil
	}
	if err := os.RemoveAll(base); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := run(ctx, "cp", "-r", dir, to); err != nil {
		return err
	}
	return run(ctx, "depmod", "-b", base, version)
}
