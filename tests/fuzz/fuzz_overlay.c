/* An overlay file: header and map. */
#define _GNU_SOURCE
#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "vmm/virtio/overlay.h"

#define ROOM (1U << 20)

/* Opens the bytes as a file, and holds it to what was promised. */
static void open_file(const uint8_t *data, size_t size, const struct overlay_header *h)
{
	auto_fd int fd = memfd_create("overlay", MFD_CLOEXEC);
	struct overlay o;

	if (fd < 0 || io_pwrite_full(fd, data, size, 0) < 0 ||
	    ftruncate(fd, (off_t)(h->data_offset + h->nblocks * OVERLAY_BLOCK)) < 0)
		return;
	if (overlay_open(&o, take_fd(&fd), true, "it", NULL) < 0)
		return;
	MUST(overlay_map_is_sane(o.map, o.h.map_len, o.h.nblocks));
	MUST(overlay_get(&o, o.h.nblocks - 1) <= OVERLAY_ZEROS);
	overlay_set(&o, 0, o.h.nblocks, OVERLAY_ZEROS);
	MUST(overlay_flush(&o) == 0);
	MUST(overlay_map_is_sane(o.map, o.h.map_len, o.h.nblocks));
	overlay_close(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct overlay_header h;
	uint8_t header[OVERLAY_HEADER];
	struct err e = { 0 };
	int rc;

	if (size > ROOM)
		return 0;
	if (size < OVERLAY_HEADER) {
		MUST(overlay_parse_header(data, size, &h, NULL) < 0);
		return 0;
	}
	/* Half of the inputs get a digest that is right: it would stop all others. */
	memcpy(header, data, sizeof(header));
	if (data[63] & 1)
		digest_sha256(header, sizeof(header) - DIGEST_SIZE,
			      header + sizeof(header) - DIGEST_SIZE);
	rc = overlay_parse_header(header, sizeof(header), &h, &e);
	MUST((rc == 0) == (e.text[0] == '\0'));
	if (rc < 0)
		return 0;
	MUST(h.size && h.size % 512 == 0 && h.size <= OVERLAY_SIZE_MAX);
	MUST(h.data_offset >= OVERLAY_HEADER + h.map_len && h.data_offset % OVERLAY_BLOCK == 0);
	/* A map as large as the input, at most: the speed is in small ones. */
	if (h.map_len <= ROOM) {
		auto_free uint8_t *whole = malloc(size);

		if (!whole)
			return 0;
		memcpy(whole, data, size);
		memcpy(whole, header, sizeof(header));
		open_file(whole, size, &h);
	}
	return 0;
}
