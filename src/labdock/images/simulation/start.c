/* The beginning of a program, for every glibc since 2.17.
 *
 * The compiler's own asks for the name that glibc 2.34 gave to the function that runs main; images for
 * older CUDA versions have an older one. The older name is still there in every newer glibc.
 */
#if defined(__x86_64__)
#define OLDEST "GLIBC_2.2.5"
__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call begin\n"
	"	hlt\n");
#elif defined(__aarch64__)
#define OLDEST "GLIBC_2.17"
__asm__(".globl _start\n"
	"_start:\n"
	"	mov x29, #0\n"
	"	mov x30, #0\n"
	"	mov x0, sp\n"
	"	bl begin\n"
	"	brk #0\n");
#else
#error "Labdock's simulated driver is built for x86-64 and ARM64"
#endif

extern int main(int argc, char **argv);
extern int oldest_libc_start_main(int (*)(int, char **), int, char **, void (*)(void), void (*)(void),
				  void (*)(void), void *);
__asm__(".symver oldest_libc_start_main, __libc_start_main@" OLDEST);

void begin(long *stack);

/* *stack* is as the kernel leaves it: the number of arguments, then the arguments. */
__attribute__((used, noreturn, visibility("hidden"))) void begin(long *stack)
{
	oldest_libc_start_main(main, (int)stack[0], (char **)(stack + 1), 0, 0, 0, stack);
	__builtin_unreachable();
}
