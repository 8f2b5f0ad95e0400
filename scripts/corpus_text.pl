#!/usr/bin/perl
# corpus_text.pl UNPACKED OUT CAP: turns the files of unpacked packages (UNPACKED/<package>/...) into OUT/<package>.<name>.txt.
# Long texts are cut into parts at blank lines, so that a share of them can be held out by file name.
use strict;
use warnings;
use File::Find;

my ($unpacked, $out, $cap) = @ARGV;
my $part_bytes = 60_000;

sub slurp {
  my ($path) = @_;
  my $text;
  if ($path =~ /\.(gz|dz)$/) {
    open my $pipe, '-|', 'gzip', '-dc', '--', $path or die "cannot run gzip: $!\n";
    local $/; $text = <$pipe>;
  } else {
    open my $file, '<', $path or die "$path: $!\n";
    local $/; $text = <$file>;
  }
  return defined $text ? $text : '';
}

sub unescape_roff {
  my ($text) = @_;
  $text =~ s/\\".*$//;
  $text =~ s/\\f(?:\(..|\[[^\]]*\]|.)//g;
  $text =~ s/\\s[-+]?\d//g;
  my %char = (aq => "'", dq => '"', em => '--', en => '-', bu => '*', co => '(C)', lq => '"', rq => '"', cq => "'", oq => "'",
              ti => '~', ha => '^', ga => '`', rs => '\\', mu => 'x', '<=' => '<=', '>=' => '>=', '->' => '->', ua => '^', Tm => '(TM)', R => '(R)');
  $text =~ s/\\\*?(?:\((..)|\[([^\]]*)\])/my $n = defined $1 ? $1 : $2; exists $char{$n} ? $char{$n} : ''/ge;
  my %plain = ('-' => '-', '.' => '.', '`' => '`', "'" => "'", ' ' => ' ', '~' => ' ', '0' => ' ', 'e' => '\\', '\\' => '\\');
  $text =~ s/\\([-\\e .'`&|^,\/%:~c0])/exists $plain{$1} ? $plain{$1} : ''/ge;
  return $text;
}

sub roff_arguments { my ($rest) = @_; my @args; push @args, defined $1 ? $1 : $2 while $rest =~ /"((?:[^"]|"")*)"?|(\S+)/g; return @args }

# Text is filled as a formatter would, between .nf and .fi it is left alone.
sub from_roff {
  my ($text) = @_;
  $text =~ s/\\\n//g;
  my ($result, $paragraph, $skip, $table, $fill) = ('', '', 0, 0, 1);
  my $end = sub { $result .= wrapped($paragraph) . "\n" if length $paragraph; $paragraph = '' };
  my $add = sub {
    my ($words) = @_;
    if ($fill && !$table && $words !~ /^\s/) { $paragraph .= (length $paragraph ? ' ' : '') . $words if length $words }
    else { $end->(); $result .= "$words\n" }
  };
  for my $line (split /\n/, $text) {
    if ($skip) { $skip = 0 if $line =~ /^\.\s*\./; next }
    if ($table == 1) { $table = 2 if $line =~ /\.\s*$/; next }
    if ($line =~ /^[.']\s*([A-Za-z\\]*)\s*(.*)$/) {
      my ($macro, $rest) = ($1, $2);
      my @args = map { unescape_roff($_) } roff_arguments($rest);
      if    ($macro eq 'de')                          { $skip = 1 }
      elsif ($macro eq 'TS')                          { $end->(); $table = 1 }
      elsif ($macro eq 'TE')                          { $table = 0; $result .= "\n" }
      elsif ($macro =~ /^(nf|EX)$/)                   { $end->(); $fill = 0 }
      elsif ($macro =~ /^(fi|EE)$/)                   { $fill = 1 }
      elsif ($macro =~ /^(SH|SS)$/)                   { $end->(); $fill = 1; $result .= "\n" . join(' ', @args) . "\n" }
      elsif ($macro =~ /^(PP|P|LP|TP|HP|TQ|sp|RS|RE)$/) { $end->(); $result .= "\n" }
      elsif ($macro eq 'br')                          { $end->() }
      elsif ($macro eq 'IP')                          { $end->(); $result .= "\n"; $add->($args[0]) if @args }
      elsif ($macro =~ /^(B|I|SM|SB|MT|UR)$/)         { $add->(join(' ', @args)) }
      elsif ($macro =~ /^(BR|RB|BI|IB|IR|RI)$/)       { $add->(join('', @args)) }
      next;
    }
    if ($table) { next if $line =~ /^[_=\s]*$/; $line =~ s/T[{}]//g; $line =~ s/\t+/  /g }
    $add->(unescape_roff($line));
  }
  $end->();
  return $result;
}

my %entity = (lt => '<', gt => '>', quot => '"', nbsp => ' ', apos => "'", mdash => '--', ndash => '-', hellip => '...', copy => '(C)');
sub from_html {
  my ($text) = @_;
  $text =~ s/<!--.*?-->//gs;
  $text =~ s/<(head|script|style|nav)\b.*?<\/\1>//gsi;
  $text =~ s/<ul class="docnav[^"]*">.*?<\/ul>//gs;
  $text =~ s/<div id="banner">.*?<\/div>|<p id="title">.*?<\/p>//gs;
  $text =~ s/<div class="(?:sphinxsidebar|related|footer|navheader|navfooter)".*?<\/div>\s*<\/div>//gs;
  my @pre;
  $text =~ s/<pre\b[^>]*>(.*?)<\/pre>/push @pre, $1; "\n\n\x01" . $#pre . "\x01\n\n"/gsei;
  $text =~ s/[ \t\r\n]+/ /g;
  $text =~ s/\x01(\d+)\x01/\n\n$pre[$1]\n\n/g;
  $text =~ s/<(?:p|div|h[1-6]|table|ul|ol|dl|blockquote|section)\b[^>]*>/\n\n/gi;
  $text =~ s/<(?:br|li|tr|dt|dd)\b[^>]*>/\n/gi;
  $text =~ s/<\/(?:p|div|h[1-6]|table|ul|ol|dl|blockquote|section)>/\n\n/gi;
  $text =~ s/<[^>]*>//g;
  $text =~ s/&#(\d+);/$1 < 128 ? chr $1 : $1 == 160 ? ' ' : $1 == 8217 ? "'" : ''/ge;
  $text =~ s/&#x([0-9a-fA-F]+);/my $c = hex $1; $c < 128 ? chr $c : $c == 160 ? ' ' : ''/ge;
  $text =~ s/&(\w+);/exists $entity{$1} ? $entity{$1} : $1 eq 'amp' ? '&' : ''/ge;
  return wrapped($text);
}

# Paragraphs of one long line become lines of at most 78 bytes, as the other texts have.
sub wrapped {
  my ($text) = @_;
  my @lines;
  for my $line (split /\n/, $text) {
    $line =~ s/^ (?=\S)//;
    while (length $line > 78 && $line =~ s/^(.{20,78}) +//) { push @lines, $1 }
    push @lines, $line;
  }
  return join("\n", @lines);
}

sub from_wordnet {
  my ($text) = @_;
  my $result = '';
  for (split /\n/, $text) {
    next if /^  / || !/\| (.*)/;
    my $gloss = $1;
    my @field = split / /;
    my @words = map { my $w = $field[4 + 2 * $_]; $w =~ tr/_/ /; $w =~ s/\(.*\)$//; $w } 0 .. hex($field[3]) - 1;
    $gloss =~ s/\s+$//;
    $result .= wrapped(join(', ', @words) . ": $gloss") . "\n\n";
  }
  return $result;
}

sub tidy {
  my ($text) = @_;
  $text =~ s/\xe2\x80[\x98\x99]/'/g; $text =~ s/\xe2\x80[\x9c\x9d]/"/g; $text =~ s/\xe2\x80\x93/-/g; $text =~ s/\xe2\x80\x94/--/g;
  $text =~ s/\xe2\x80\xa6/.../g; $text =~ s/\xc2\xa0/ /g; $text =~ s/\xc2\xb6//g;
  $text =~ s/.\x08//g;
  $text =~ s/\r//g; $text =~ s/\f/\n/g; $text =~ s/\0//g;
  $text =~ s/[ \t]+$//mg;
  $text =~ s/\n{3,}/\n\n/g;
  $text =~ s/^\n+//;
  $text =~ s/\n*$/\n/;
  return $text;
}

sub parts {
  my ($text) = @_;
  return ($text) if length $text < 1.5 * $part_bytes;
  my ($current, @parts) = ('');
  for my $block (split /(?<=\n)\n/, $text) {
    if (length $current && length($current) + length($block) > $part_bytes) { push @parts, $current; $current = '' }
    $current .= "\n" if length $current;
    $current .= $block;
  }
  return (@parts, $current);
}

my $written = 0;
sub emit {
  my ($package, $name, $text, $most) = @_;
  $text = tidy($text);
  my @parts = grep { length $_ >= 200 } parts($text);
  if ($most && length $text > $most) {
    my $keep = int(@parts * $most / length $text) || 1;
    @parts = @parts[map { int($_ * @parts / $keep) } 0 .. $keep - 1];
  }
  $name =~ s/[^A-Za-z0-9_+-]+/-/g;
  my $i = 0;
  for my $part (@parts) {
    my $path = @parts > 1 ? sprintf('%s/%s.%s.%04d.txt', $out, $package, $name, $i++) : "$out/$package.$name.txt";
    open my $file, '>', $path or die "$path: $!\n";
    print $file $part;
    close $file or die "$path: $!\n";
    $written++;
  }
}

opendir my $folder, $unpacked or die "$unpacked: $!\n";
for my $package (sort grep { !/^\./ && -d "$unpacked/$_" } readdir $folder) {
  my @files;
  find({ no_chdir => 1, wanted => sub { push @files, $_ if -f $_ && !-l $_ } }, "$unpacked/$package");
  my $html = grep { /\.html(\.gz)?$/ } @files;
  for my $path (sort @files) {
    (my $inside = $path) =~ s/^\Q$unpacked\E\/[^\/]+\///;
    (my $name = $inside) =~ s/.*\///;
    $name =~ s/\.(gz|dz)$//;
    next if $name =~ /^(changelog|NEWS|copyright|README|TODO)/ || $inside =~ m{lintian|doc-base|/bug/|_sources/};
    if    ($inside =~ m{share/man/man\d/})                { emit($package, $name, from_roff(slurp($path))) }
    elsif ($package eq 'licenses')                        { emit($package, $name, slurp($path)) }
    elsif ($inside =~ m{dictd/.*\.dict\.dz$})             { emit($package, $name, slurp($path), $cap) }
    elsif ($inside =~ m{wordnet/data\.(\w+)$})            { emit($package, $1, from_wordnet(slurp($path)), $cap / 10) }
    elsif ($inside =~ m{games/fortunes/[^.]+$})           { my $t = slurp($path); $t =~ s/^%$//mg; emit($package, $name, $t) }
    elsif ($inside =~ m{\.txt(\.gz)?$})                   { emit($package, $name, slurp($path)) }
    elsif ($inside =~ m{\.html(\.gz)?$}) {
      # English only, and not where the same text is there as .txt.
      next if $inside =~ m{/([a-z]{2}(-[A-Z]{2})?)/[^/]*$} && $1 !~ /^en/;
      next if $name =~ /^(genindex|search|index|ix01)\./ || $name =~ /\.(?!en\b)[a-z]{2}(-[a-z]+)?\.html/;
      next if grep { /\.txt(\.gz)?$/ } @files;
      emit($package, $name, from_html(slurp($path)));
    }
  }
}
die "no text found under $unpacked\n" unless $written;
