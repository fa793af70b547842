/*
 * mkkernel FILE: writes the smallest kernel that vmm can boot as a Linux bzImage.
 * It prints "kernel " and its command line on COM1, then obeys each letter that
 * comes in there:
 *
 *     r   resets the machine by the keyboard controller
 *     t   resets it by a triple fault
 *     .   answers "alive"
 *     s   scribbles from now on: writes the number of the write into a random one of 1,024
 *	   pages and into a log of them, without an end; and at any more letter compares
 *	   all pages with the log, and answers "good" or, for the last time, "bad"
 *     f   writes its own address into each page from 32 to 160 MiB, answers "filled"
 *     c   writes that once more, and another word, into the first 16 MiB of them, answers
 *         "changed"
 *     w   reads a quarter of these, scattered, answers "walked", or "corrupt" where one
 *         holds something else
 *
 * It exists for what the demo guest has not: a command line, input, a reset, writes, and
 * a file that it was loaded from.
 *
 * Source: Documentation/arch/x86/boot.rst, "The real-mode kernel header" and
 * "64-bit Boot Protocol".
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SECTOR	 512
#define ENTRY_64 0x200 /* from the start of the protected-mode part */

extern const uint8_t kernel_start[], kernel_end[];

__asm__(".pushsection .rodata\n"
	"kernel_start:\n"
	"	mov	0x228(%rsi), %r8d\n" /* boot_params.hdr.cmd_line_ptr */
	"	lea	text_kernel(%rip), %rsi\n"
	"	call	print\n"
	"	mov	%r8, %rsi\n"
	"	call	print\n"
	"	mov	$'\\n', %al\n"
	"	call	put\n"
	"wait:	mov	$0x3fd, %edx\n"
	"	in	%dx, %al\n"
	"	test	$1, %al\n"
	"	jz	wait\n"
	"	mov	$0x3f8, %edx\n"
	"	in	%dx, %al\n"
	"	cmp	$'r', %al\n"
	"	je	reset\n"
	"	cmp	$'t', %al\n"
	"	je	fault\n"
	"	cmp	$'s', %al\n"
	"	je	scribble\n"
	"	cmp	$'f', %al\n"
	"	je	fill\n"
	"	cmp	$'c', %al\n"
	"	je	change\n"
	"	cmp	$'w', %al\n"
	"	je	walk\n"
	"	cmp	$'.', %al\n"
	"	jne	wait\n"
	"	lea	text_alive(%rip), %rsi\n"
	"	call	print\n"
	"	jmp	wait\n"
	"fill:	mov	$0x2000000, %edi\n"
	"1:	mov	%rdi, (%rdi)\n"
	"	add	$0x1000, %edi\n"
	"	cmp	$0xa000000, %edi\n"
	"	jb	1b\n"
	"	lea	text_filled(%rip), %rsi\n"
	"	call	print\n"
	"	jmp	wait\n"
	"change:	mov	$0x2000000, %edi\n"
	"1:	mov	%rdi, (%rdi)\n"
	"	incl	8(%rdi)\n"
	"	add	$0x1000, %edi\n"
	"	cmp	$0x3000000, %edi\n"
	"	jb	1b\n"
	"	lea	text_changed(%rip), %rsi\n"
	"	call	print\n"
	"	jmp	wait\n"
	"walk:	mov	$0x2000, %ecx\n"
	"1:	imul	$40503, %ecx, %edi\n" /* odd: no page twice */
	"	and	$0x7fff, %edi\n"
	"	shl	$12, %edi\n"
	"	add	$0x2000000, %edi\n"
	"	lea	text_corrupt(%rip), %rsi\n"
	"	cmp	%rdi, (%rdi)\n"
	"	jne	2f\n"
	"	dec	%ecx\n"
	"	jnz	1b\n"
	"	lea	text_walked(%rip), %rsi\n"
	"2:	call	print\n"
	"	jmp	wait\n"
	"reset:	mov	$0xfe, %al\n"
	"	out	%al, $0x64\n"
	"	jmp	wait\n"
	"fault:	lidt	no_idt(%rip)\n"
	"	movabs	0xf00000000, %rax\n" /* not mapped */
	"	hlt\n"
	/* %r12: the number of the last write, %r13: the log, %r14: the pages */
	"scribble:\n"
	"	xor	%r12d, %r12d\n"
	"	mov	$0x300000, %r13d\n"
	"	mov	$0x400000, %r14d\n"
	"	mov	%r14, %r15\n"
	"1:	inc	%r12\n"
	"	movabs	$6364136223846793005, %rax\n"
	"	imul	%rax, %r15\n"
	"	movabs	$1442695040888963407, %rax\n"
	"	add	%rax, %r15\n"
	"	mov	%r15, %rdi\n"
	"	shr	$40, %rdi\n"
	"	and	$1023, %edi\n"
	"	mov	%rdi, %rsi\n"
	"	shl	$12, %rsi\n"
	"	add	%r14, %rsi\n"
	"	mov	%r12, (%rsi)\n"
	"	mov	%r12, 4088(%rsi)\n"
	"	mov	%r12, (%r13,%rdi,8)\n"
	"	mov	%r12, -8(%r13)\n"
	"	test	%r12b, %r12b\n"
	"	jnz	1b\n"
	"	mov	$0x3fd, %edx\n"
	"	in	%dx, %al\n"
	"	test	$1, %al\n"
	"	jz	1b\n"
	"	mov	$0x3f8, %edx\n"
	"	in	%dx, %al\n"
	"	xor	%edi, %edi\n"
	"2:	mov	%rdi, %rsi\n"
	"	shl	$12, %rsi\n"
	"	add	%r14, %rsi\n"
	"	mov	(%r13,%rdi,8), %rax\n"
	"	cmp	%rax, (%rsi)\n"
	"	jne	bad\n"
	"	cmp	%rax, 4088(%rsi)\n"
	"	jne	bad\n"
	"	inc	%edi\n"
	"	cmp	$1024, %edi\n"
	"	jb	2b\n"
	"	cmp	%r12, -8(%r13)\n"
	"	jne	bad\n"
	"	lea	text_good(%rip), %rsi\n"
	"	call	print\n"
	"	jmp	1b\n"
	"bad:	lea	text_bad(%rip), %rsi\n"
	"	call	print\n"
	"3:	jmp	3b\n"
	"put:	mov	%al, %bl\n"
	"	mov	$0x3fd, %edx\n"
	"1:	in	%dx, %al\n"
	"	test	$0x20, %al\n"
	"	jz	1b\n"
	"	mov	%bl, %al\n"
	"	mov	$0x3f8, %edx\n"
	"	out	%al, %dx\n"
	"	ret\n"
	"print:	lodsb\n"
	"	test	%al, %al\n"
	"	jz	1f\n"
	"	call	put\n"
	"	jmp	print\n"
	"1:	ret\n"
	"text_kernel: .asciz \"kernel \"\n"
	"text_alive: .asciz \"alive\\n\"\n"
	"text_good: .asciz \"good\\n\"\n"
	"text_bad: .asciz \"bad\\n\"\n"
	"text_filled: .asciz \"filled\\n\"\n"
	"text_changed: .asciz \"changed\\n\"\n"
	"text_walked: .asciz \"walked\\n\"\n"
	"text_corrupt: .asciz \"corrupt\\n\"\n"
	"no_idt: .zero 10\n"
	"kernel_end:\n"
	"	.popsection\n");

static uint8_t image[6 * SECTOR];

static void put32(size_t at, uint32_t v)
{
	memcpy(image + at, &v, sizeof(v));
}

int main(int argc, char **argv)
{
	const size_t size = (size_t)(kernel_end - kernel_start);
	FILE *f;

	if (argc != 2 || 2 * SECTOR + ENTRY_64 + size > sizeof(image))
		return 2;
	image[0x1f1] = 1;    /* setup_sects: the header's own, and one more */
	image[0x201] = 0x66; /* the header ends at 0x202 + this */
	memcpy(image + 0x202, "HdrS", 4);
	put32(0x206, 0x020f);	  /* protocol */
	image[0x211] = 1;	  /* loaded high */
	put32(0x22c, 0x7fffffff); /* initrd_addr_max */
	put32(0x236, 1);	  /* has a 64-bit entry point */
	put32(0x238, 255);	  /* cmdline_size */
	put32(0x258, 0x200000);	  /* pref_address */
	put32(0x260, 0x100000);	  /* init_size */
	memcpy(image + 2 * SECTOR + ENTRY_64, kernel_start, size);
	f = fopen(argv[1], "wb");
	if (!f || fwrite(image, sizeof(image), 1, f) != 1 || fclose(f) != 0)
		return 1;
	return 0;
}
