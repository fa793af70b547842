/* Unix stream sockets with a path: see unix_socket.h. */
#define _GNU_SOURCE
#include "unix_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define BACKLOG 128

static int make_address(struct sockaddr_un *address, const char *path)
{
	const size_t n = strlen(path);

	if (n == 0 || n > UNIX_PATH_MAX)
		return -ENAMETOOLONG;
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(address->sun_path, path, n);
	return 0;
}

static int make_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? -errno : fd;
}

int unix_connect(const char *path)
{
	struct sockaddr_un address;
	int rc = make_address(&address, path);
	auto_fd int fd = rc < 0 ? rc : make_socket();

	if (fd < 0)
		return fd;
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return take_fd(&fd);
}

/* True where a socket is at `path` whose server has gone. */
static bool is_dead_socket(const char *path)
{
	struct stat st;
	auto_fd int fd = -1;

	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = unix_connect(path);
	return fd == -ECONNREFUSED;
}

static int bind_at(int fd, const struct sockaddr_un *address)
{
	return bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
}

int unix_listen(struct unix_listener *l, const char *what, const char *path, struct err *e)
{
	struct sockaddr_un address;
	auto_fd int fd = -1;
	struct stat st;
	int rc;

	*l = (struct unix_listener){ .fd = -1 };
	if (make_address(&address, path) < 0)
		return err_refuse(e, ENAMETOOLONG, "%s %s: the path must have 1 to %zu bytes", what,
				  path, UNIX_PATH_MAX);
	fd = make_socket();
	if (fd < 0)
		return err_sys(e, -fd, "cannot make a socket");
	/* The socket's own mode is the file's: others can never connect, not even for a moment. */
	if (fchmod(fd, 0600) < 0)
		return err_sys(e, errno, "%s %s", what, path);
	rc = bind_at(fd, &address);
	if (rc == -EADDRINUSE && is_dead_socket(path) && unlink(path) == 0)
		rc = bind_at(fd, &address);
	if (rc == -EADDRINUSE)
		return err_refuse(e, EADDRINUSE, "%s %s: it exists and is in use", what, path);
	if (rc < 0)
		return err_sys(e, -rc, "%s %s", what, path);
	if (lstat(path, &st) < 0 || listen(fd, BACKLOG) < 0) {
		rc = -errno;
		unlink(path);
		return err_sys(e, -rc, "%s %s", what, path);
	}
	memcpy(l->path, address.sun_path, sizeof(l->path));
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	l->fd = take_fd(&fd);
	return 0;
}

void unix_listener_close(struct unix_listener *l)
{
	struct stat st;

	if (l->fd < 0)
		return;
	/* Before it is closed: its inode's number can be another's afterwards. */
	if (lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	close(l->fd);
	l->fd = -1;
}
