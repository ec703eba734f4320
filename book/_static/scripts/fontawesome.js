/* In place of the theme's script of this name (1.5 MB), which draws again the icons that its web font has. */
