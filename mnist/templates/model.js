// The network, its classes and the sizes that it was trained with, as mnist/deploy/page.py writes them.
export const MODEL = JSON.parse(globalThis.document.getElementById("model").textContent);
