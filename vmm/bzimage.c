/* The header of a Linux bzImage: see bzimage.h. */
#include "bzimage.h"

#include <errno.h>
#include <string.h>

#define HEADER_START	    0x1f1
#define HEADER_END_BYTE	    0x201 /* the header ends this byte's value behind 0x202 */
#define HEADER_MAGIC	    0x202
#define HEADER_MIN_END	    0x268 /* protocol 2.12 reaches here */
#define PROTOCOL_2_12	    0x020c
#define LOADED_HIGH	    0x01
#define XLF_KERNEL_64	    0x01
#define SECTOR		    512
#define DEFAULT_SETUP_SECTS 4

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

int bzimage_parse(const uint8_t *buf, size_t len, struct bzimage *out, struct err *e)
{
	size_t setup_sects, end;

	if (len < HEADER_MIN_END || memcmp(buf + HEADER_MAGIC, "HdrS", 4) != 0)
		return err_refuse(e, ENOEXEC, "it is not a Linux bzImage");
	if (get16(buf + 0x206) < PROTOCOL_2_12 || !(get16(buf + 0x236) & XLF_KERNEL_64))
		return err_refuse(e, ENOEXEC, "it is a bzImage without a 64-bit entry point");
	if (!(buf[0x211] & LOADED_HIGH))
		return err_refuse(e, ENOEXEC, "it is a zImage, which cannot be loaded above 1 MiB");

	setup_sects = buf[HEADER_START] ? buf[HEADER_START] : DEFAULT_SETUP_SECTS;
	end = HEADER_MAGIC + buf[HEADER_END_BYTE];
	if (end < HEADER_MIN_END || end > len)
		return err_refuse(e, ENOEXEC, "its setup header has a wrong length");
	out->header_offset = HEADER_START;
	out->header_size = end - HEADER_START;
	out->kernel_offset = (setup_sects + 1) * SECTOR;
	if (out->kernel_offset >= len)
		return err_refuse(e, ENOEXEC, "it is a bzImage that ends before its kernel");
	out->kernel_size = len - out->kernel_offset;
	out->load_address = get64(buf + 0x258);
	out->init_size = get32(buf + 0x260);
	out->initrd_max = get32(buf + 0x22c);
	out->cmdline_max = get32(buf + 0x238);
	if (out->init_size < out->kernel_size)
		out->init_size = out->kernel_size;
	if (out->load_address < 0x100000 || out->load_address % 4096 ||
	    out->load_address > UINT32_MAX)
		return err_refuse(e, ENOEXEC, "it wants to be loaded at 0x%llx",
				  (unsigned long long)out->load_address);
	return 0;
}
