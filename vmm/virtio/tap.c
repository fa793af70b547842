/* Taps of the host: see tap.h. */
#define _GNU_SOURCE
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

/* TUNSETIFF, in words. A tap that this would make is not one that anybody is connected to. */
static int take_tap(int fd, const char *name, struct err *e)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int rc;

	strcpy(ifr.ifr_name, name);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		rc = errno;
		if (rc == EBUSY)
			return err_refuse(e, rc, "--net tap=%s: another program uses it", name);
		if (rc == EINVAL)
			return err_refuse(e, rc,
					  "--net tap=%s: this is no tap, or one with several "
					  "queues",
					  name);
		if (rc == EPERM)
			return err_refuse(e, rc,
					  "--net tap=%s: it belongs to another user: make it with "
					  "'ip tuntap add dev %s mode tap user NAME'",
					  name, name);
		return err_sys(e, rc, "--net tap=%s", name);
	}
	/* It may have been removed between the look and the call, which then made another. */
	if (ioctl(fd, TUNGETIFF, &ifr) < 0 || !(ifr.ifr_flags & IFF_PERSIST))
		return err_refuse(e, ENODEV, "--net tap=%s: the interface has been removed", name);
	return 0;
}

int tap_open(const char *name, int header, struct err *e)
{
	auto_fd int fd = -1;
	int rc;

	if (!*name || strlen(name) >= IFNAMSIZ)
		return err_usage(e, EINVAL, "--net tap=%s: an interface's name has 1 to %d bytes",
				 name, IFNAMSIZ - 1);
	if (!if_nametoindex(name))
		return err_refuse(e, ENODEV,
				  "--net tap=%s: there is no such interface: make it with "
				  "'ip tuntap add dev %s mode tap'",
				  name, name);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "--net tap=%s: /dev/net/tun", name);
	rc = take_tap(fd, name, e);
	if (rc < 0)
		return rc;
	if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
		return err_sys(e, errno, "--net tap=%s: this kernel's taps are too old", name);
	return take_fd(&fd);
}

unsigned tap_mtu(const char *name)
{
	auto_fd int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { 0 };

	if (fd < 0 || strlen(name) >= IFNAMSIZ)
		return ETH_DATA_LEN;
	strcpy(ifr.ifr_name, name);
	return ioctl(fd, SIOCGIFMTU, &ifr) < 0 ? ETH_DATA_LEN : (unsigned)ifr.ifr_mtu;
}
